"""Videos to embeddings: the mean over a few centre crops, several networks in one reading.

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
from typing import Any

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from vcjax import inference, pretrained
from vcjax.data import manifest as manifests
from vcjax.data import shards, verify
from vcjax.data.manifest import Manifest
from vcjax.inference import Features
from vcjax.pretrained import Pretrained
from vcjax.runtime import atomic, filesystem, npz, progress

log = logging.getLogger(__name__)

_PART = 64  # videos, after which what is done is kept


def main(arguments: Sequence[str] | None = None) -> None:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m vcjax.embed",
        description="Embeddings (unit norm) and pooled features of videos, with their video_id.",
        epilog="Run again to go on after an interruption.",
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        help="a training stage such as runs/mine/la or, as it was at its best validation, "
        "runs/mine/la/best; an exported folder; or a hub id owner/name",
    )
    parser.add_argument("--manifest", required=True, help="folder, or table with a path column")
    parser.add_argument("--out", type=Path, required=True, help="features.npz or .parquet")
    parser.add_argument("--clips_per_video", type=int, default=5, help="whose mean is taken")
    parser.add_argument("--batch_size", type=int, default=32, help="clips at a time")
    parser.add_argument("--num_threads", type=int, default=2, help="that read clips")
    parser.add_argument(
        "--skip", action="store_true", help="leave out bad videos, decoding all first"
    )
    options = parser.parse_args(arguments)
    try:
        _embed(options)
    except (ValueError, OSError) as error:
        sys.exit(f"vcjax.embed: {error}")


def _embed(options: argparse.Namespace) -> None:
    if options.out.suffix not in (".npz", ".parquet"):
        raise ValueError(f"{options.out}: write .npz or .parquet")
    if min(options.clips_per_video, options.batch_size, options.num_threads) < 1:
        raise ValueError("--clips_per_video, --batch_size and --num_threads are at least 1")
    network = pretrained.load(options.checkpoint)
    manifest, problems = verify.verify(
        manifests.read(options.manifest),
        on_error="skip" if options.skip else "error",
        decode=options.skip,
        num_workers=options.num_threads,
    )
    for problem in problems:
        print(f"left out {problem.video_id}: {problem.reason}", file=sys.stderr)
    parts = options.out.with_name(options.out.name + ".parts")
    config = network.config()
    config.evaluation.batch_size, config.data.num_threads = options.batch_size, options.num_threads
    options.out.parent.mkdir(parents=True, exist_ok=True)
    parts.mkdir(exist_ok=True)
    found = [
        _part(network, config, manifest.take(rows), parts, clips_per_video=options.clips_per_video)
        for rows in progress.bar(
            np.split(np.arange(len(manifest)), range(_PART, len(manifest), _PART)),
            desc="embed",
            unit=f"{_PART} videos",
        )
    ]
    embedded = Features(*map(np.concatenate, zip(*found, strict=True)))
    _write(options.out, manifest, embedded)
    shutil.rmtree(parts)
    print(
        f"{options.out}: video_id [{len(manifest)}], embedding {list(embedded.embedding.shape)}, "
        f"pooled {list(embedded.pooled.shape)}"
    )


def _part(
    network: Pretrained,
    config: ConfigDict,
    manifest: Manifest,
    parts: Path,
    *,
    clips_per_video: int,
) -> Features:
    """Some videos' view: from `parts` where it is of the same network, files and clips."""
    stats = [(path, filesystem.file_version(shards.file_of(path))) for path in manifest.paths]
    how: Any = [manifest.video_ids, stats, clips_per_video, config.clip.to_dict()]
    digest = hashlib.sha256(json.dumps(how, default=str).encode())
    for value in jax.tree.leaves(nnx.state(network.model)):
        digest.update(np.asarray(value).tobytes())
    path = parts / f"{digest.hexdigest()[:16]}.npz"
    if path.exists():
        try:
            with path.open("rb") as part, np.load(part, allow_pickle=False) as stored:
                return Features(stored["embedding"], stored["pooled"])
        except npz.UNREADABLE as error:
            log.warning("%s: damaged, made again: %s", path, error)
    views = inference.videos(
        {"": network.model}, manifest, config, clips_per_video=clips_per_video, desc="clips"
    )[""]
    with atomic.atomic_write(path) as file:
        np.savez(file, **views._asdict())
    return views


def _write(path: Path, manifest: Manifest, embedded: Features) -> None:
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
