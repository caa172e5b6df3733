"""Command line that embeds videos by a trained network, as means over center crops.

python -m vcjax.embed --checkpoint FOLDER --manifest VIDEOS --out features.npz
"""

import argparse
import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# JAX and the readers are imported by the functions below: --help should not wait for them
import numpy as np

from vcjax.runtime import atomic, xla_flags

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from vcjax.data.manifest import Manifest
    from vcjax.inference import Features
    from vcjax.pretrained import Pretrained

log = logging.getLogger(__name__)

_PART = 64  # videos per part; an interrupted command resumes after the last whole part


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and exit with a message if the input is invalid."""
    parser = argparse.ArgumentParser(
        prog="python -m vcjax.embed",
        description="Write video_id, embedding (unit norm) and pooled features of videos.",
        epilog="Run the same command again to resume after an interruption.",
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        help="folder of a training stage such as runs/mine/la, or runs/mine/la/best for its best "
        "validation; exported folder; or hub id owner/name",
    )
    parser.add_argument("--manifest", required=True, help="folder, or table with a path column")
    parser.add_argument("--out", type=Path, required=True, help="output file, .npz or .parquet")
    parser.add_argument("--clips_per_video", type=int, default=5, help="number of clips averaged")
    parser.add_argument("--batch_size", type=int, default=32, help="clips per step")
    parser.add_argument("--num_threads", type=int, default=2, help="threads that read clips")
    parser.add_argument(
        "--on_error",
        choices=("error", "skip"),
        default="error",
        help="skip: decode all videos first and leave out invalid ones",
    )
    options = parser.parse_args(arguments)
    try:
        _embed(options)
    except (ValueError, OSError) as error:
        sys.exit(f"vcjax.embed: {error}")


def _embed(options: argparse.Namespace) -> None:
    if options.out.suffix not in (".npz", ".parquet"):
        raise ValueError(f"--out is {options.out}; use a name that ends in .npz or .parquet")
    if min(options.clips_per_video, options.batch_size, options.num_threads) < 1:
        raise ValueError("--clips_per_video, --batch_size and --num_threads must be at least 1")
    from vcjax import pretrained
    from vcjax.data import manifest as manifests
    from vcjax.data import verify
    from vcjax.inference import Features
    from vcjax.runtime import progress

    xla_flags.devices()
    network = pretrained.load(options.checkpoint)
    manifest, problems = verify.verify(
        manifests.read(options.manifest),
        on_error=options.on_error,
        decode=options.on_error == "skip",
        num_workers=options.num_threads,
    )
    if problems:
        lines = "\n".join(manifests.listed(problems))
        print(f"left out {len(problems)} videos:\n{lines}", file=sys.stderr)
    parts = options.out.with_name(options.out.name + ".parts")
    config = network.config()
    config.evaluation.batch_size, config.data.num_threads = options.batch_size, options.num_threads
    options.out.parent.mkdir(parents=True, exist_ok=True)
    parts.mkdir(exist_ok=True)
    features = [
        _part(network, config, manifest.take(rows), parts, clips_per_video=options.clips_per_video)
        for rows in progress.bar(
            np.split(np.arange(len(manifest)), range(_PART, len(manifest), _PART)),
            desc="embed",
            unit=f"{_PART} videos",
        )
    ]
    embedded = Features(*map(np.concatenate, zip(*features, strict=True)))
    _write(options.out, manifest, embedded)
    shutil.rmtree(parts)
    print(
        f"{options.out}: video_id [{len(manifest)}], embedding {list(embedded.embedding.shape)}, "
        f"pooled {list(embedded.pooled.shape)}"
    )


def _part(
    network: "Pretrained",
    config: "ConfigDict",
    manifest: "Manifest",
    parts: Path,
    *,
    clips_per_video: int,
) -> "Features":
    """Return the features of some videos, and cache them in the folder `parts`.

    The name of the cache file hashes the network, the videos' files and the clips.
    """
    import jax
    from flax import nnx

    from vcjax import inference
    from vcjax.data import shards
    from vcjax.runtime import filesystem, npz

    stats = [(path, filesystem.file_version(shards.file_of(path))) for path in manifest.paths]
    inputs: Any = [manifest.video_ids, stats, clips_per_video, config.clip.to_dict()]
    digest = hashlib.sha256(json.dumps(inputs, default=str).encode())
    for value in jax.tree.leaves(nnx.state(network.model)):
        digest.update(np.asarray(value).tobytes())
    path = parts / f"{digest.hexdigest()[:16]}.npz"
    if path.exists():
        try:
            with path.open("rb") as part, np.load(part, allow_pickle=False) as stored:
                return inference.Features(stored["embedding"], stored["pooled"])
        except npz.UNREADABLE as error:
            log.warning("%s: damaged; embedding its videos again: %s", path, error)
    views = inference.videos(
        {"": network.model}, manifest, config, clips_per_video=clips_per_video, desc="clips"
    )[""]
    with atomic.atomic_write(path) as file:
        np.savez(file, **views._asdict())
    return views


def _write(path: Path, manifest: "Manifest", embedded: "Features") -> None:
    if path.suffix == ".npz":
        with atomic.atomic_write(path) as file:
            np.savez(file, video_id=np.array(manifest.video_ids), **embedded._asdict())
        return
    import pyarrow
    from pyarrow import parquet

    table = {"video_id": list(manifest.video_ids)}
    table |= {name: list(values) for name, values in embedded._asdict().items()}
    with atomic.atomic_write(path) as file:
        parquet.write_table(pyarrow.table(table), file)


if __name__ == "__main__":
    main()
