"""Command line that embeds videos, or windows of long videos, by a trained network.

python -m vcjax.embed --checkpoint FOLDER --manifest VIDEOS --out features.npz
python -m vcjax.embed --checkpoint FOLDER --manifest VIDEOS --window 2 --stride 1 --out windows.npz
"""

import argparse
import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# JAX and the readers are imported by the functions below: --help should not wait for them
import numpy as np

from vcjax.runtime import atomic, extras, xla_flags

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from vcjax.data.manifest import Manifest
    from vcjax.data.windows import Cut
    from vcjax.inference import Forward
    from vcjax.pretrained import Pretrained

log = logging.getLogger(__name__)

_PART = 64  # videos per part; an interrupted command resumes after the last whole part
_PART_WINDOWS = 2000  # likewise, unless one video has more
_LAYERS = ("stem", "stage1", "stage2", "stage3", "stage4", "pooled", "embedding")

Columns = dict[str, np.ndarray]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and exit with a message if the input is invalid."""
    parser = argparse.ArgumentParser(
        prog="python -m vcjax.embed",
        description="Write video_id and features of videos, by default embedding (unit norm) and "
        "pooled. With --window, one row per window with start and end in seconds.",
        epilog="Run the same command again to resume after an interruption.",
    )
    add_network(parser)
    parser.add_argument("--out", type=Path, required=True, help="output file, .npz or .parquet")
    parser.add_argument(
        "--format", choices=("npz", "parquet"), help="default: by the name of the output file"
    )
    parser.add_argument(
        "--layer",
        choices=_LAYERS,
        nargs="+",
        default=["embedding", "pooled"],
        help="layers, averaged over time and space (default: embedding pooled)",
    )
    options = parser.parse_args(arguments)
    try:
        with extras.explained():
            _embed(options)
    except (ValueError, OSError) as error:
        sys.exit(f"vcjax.embed: {error}")


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add the options of the network, the videos and the reading."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        help="folder of a training stage such as runs/mine/la, or runs/mine/la/best for its best "
        "validation; split of a finetuned stage; exported folder; or hub id owner/name",
    )
    parser.add_argument("--manifest", required=True, help="folder, or table with a path column")
    parser.add_argument("--window", type=float, help="seconds of a window (default: whole videos)")
    parser.add_argument(
        "--stride", type=float, help="seconds from window to window (default: --window)"
    )
    parser.add_argument("--clips_per_video", type=int, help="clips averaged, without --window")
    parser.add_argument("--batch_size", type=int, default=32, help="clips per step")
    parser.add_argument("--num_threads", type=int, default=2, help="threads that read clips")
    parser.add_argument(
        "--on_error",
        choices=("error", "skip"),
        default="error",
        help="skip: decode all videos first and leave out invalid ones",
    )


def check(options: argparse.Namespace) -> None:
    """Raise ValueError if an option of `add_network` is invalid."""
    counts = (options.clips_per_video or 1, options.batch_size, options.num_threads)
    if min(counts) < 1:
        raise ValueError("--clips_per_video, --batch_size and --num_threads must be at least 1")
    if options.window is None and options.stride is not None:
        raise ValueError("--stride is the distance of windows; add --window SECONDS")
    if options.window is not None and options.clips_per_video is not None:
        raise ValueError(
            "--clips_per_video is for whole videos; a window contains as many clips as fit into it"
        )
    for name in ("window", "stride"):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"--{name} is {value:g}; use a number of seconds above 0")


def _embed(options: argparse.Namespace) -> None:
    suffix = f".{options.format}" if options.format else options.out.suffix
    if suffix not in (".npz", ".parquet"):
        raise ValueError(f"--out is {options.out}; use a name that ends in .npz or .parquet")
    check(options)
    network, manifest, config = load(options)
    layers = tuple(dict.fromkeys(options.layer))
    # a classifier has logits in place of an embedding; its normalized pooled features serve as one
    computed = tuple("pooled" if network.classifier and k == "embedding" else k for k in layers)

    def features(part: "Manifest") -> Columns:
        from vcjax import inference

        if options.window is None:
            found = inference.layer_means(
                {"": network.model},
                computed,
                part,
                config,
                clips_per_video=options.clips_per_video or 5,
                desc="clips",
            )[""]
            return {"video_id": np.array(part.video_ids, str), **found}
        run = inference.forward(network.model, computed)
        return window_columns(run, computed, part, cut_of(options, config), options.batch_size)

    extra = [computed, options.clips_per_video or 5, options.window, options.stride]
    columns = in_parts(options, network, manifest, config, extra, features)
    columns = {k: v for k, v in columns.items() if k not in _LAYERS} | {
        name: _unit(columns[layer]) if name == "embedding" else columns[layer]
        for name, layer in zip(layers, computed, strict=True)
    }
    _write(options.out, suffix, columns)
    shutil.rmtree(parts_of(options))
    shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in columns.items())
    print(f"{options.out}: {shapes}")


def load(options: argparse.Namespace) -> "tuple[Pretrained, Manifest, ConfigDict]":
    """Return the network, the verified videos and the settings of `options`."""
    from vcjax import pretrained
    from vcjax.data import manifest as manifests
    from vcjax.data import verify

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
    config = network.config()
    config.evaluation.batch_size, config.data.num_threads = options.batch_size, options.num_threads
    return network, manifest, config


def cut_of(options: argparse.Namespace, config: "ConfigDict") -> "Cut":
    """Return the windows that `options` ask for, with the clips of the network."""
    from vcjax.data.windows import Cut

    clip = config.clip
    step = options.stride or options.window
    return Cut(options.window, step, clip.num_frames, clip.stride, clip.side)


def window_columns(
    run: "Forward", names: Sequence[str], manifest: "Manifest", cut: "Cut", batch_size: int
) -> Columns:
    """Return ids, times and the outputs `names` of `run` for each window of some videos."""
    from vcjax import inference
    from vcjax.data import windows

    listed = windows.listed(manifest, cut)
    outputs = inference.window_means(run, manifest, listed, cut, batch_size=batch_size)
    ids = np.array(manifest.video_ids, str)[listed.row]
    return {
        "video_id": ids,
        "start": listed.start,
        "end": listed.end,
        **dict(zip(names, outputs, strict=True)),
    }


def parts_of(options: argparse.Namespace) -> Path:
    """Return the folder of the results of an interrupted command."""
    return options.out.with_name(options.out.name + ".parts")


def in_parts(
    options: argparse.Namespace,
    network: "Pretrained",
    manifest: "Manifest",
    config: "ConfigDict",
    settings: Sequence[Any],
    work: Callable[["Manifest"], Columns],
) -> Columns:
    """Return the columns of `work` for all videos, part by part; finished parts are stored.

    Args:
        options: Options of the command, for the folder of the parts and the windows.
        network: The network.
        manifest: The videos.
        config: Settings of the reader.
        settings: Further values that the result depends on.
        work: Function from the videos of a part to its columns.
    """
    from vcjax.models import resnet3d
    from vcjax.runtime import progress

    folder = parts_of(options)
    weights = resnet3d.digest(network.model)
    settings = [*settings, weights, config.clip.to_dict(), config.seed]
    parts = [
        _part(manifest.take(rows), folder, settings, work)
        for rows in progress.bar(_split(options, manifest, config), desc="embed", unit="part")
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _split(
    options: argparse.Namespace, manifest: "Manifest", config: "ConfigDict"
) -> list[list[int]]:
    """Return the rows of each part."""
    weights = np.full(len(manifest), 1 / _PART)
    if options.window is not None:
        from vcjax.data import windows

        listed = windows.listed(manifest, cut_of(options, config))
        weights = np.maximum(weights, np.bincount(listed.row) / _PART_WINDOWS)
    number = np.floor(np.cumsum(weights) - weights + 1e-9).astype(int)
    return [np.flatnonzero(number == part).tolist() for part in np.unique(number)]


def _part(
    manifest: "Manifest", folder: Path, settings: Sequence[Any], work: Callable[[Any], Columns]
) -> Columns:
    """Return the columns of some videos, and store them in `folder`.

    The name of the file hashes the settings, the network and the videos' files.
    """
    from vcjax.data import manifest as manifests
    from vcjax.runtime import npz

    files = [manifest.paths, manifests.versions(manifest)]
    inputs = json.dumps([manifest.video_ids, files, *settings], default=str)
    path = folder / f"{hashlib.sha256(inputs.encode()).hexdigest()[:16]}.npz"
    columns = npz.read(path)
    if columns is None:
        columns = work(manifest)
        npz.write(path, columns)
    return columns


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _write(path: Path, suffix: str, columns: Mapping[str, np.ndarray]) -> None:
    with atomic.atomic_write(path) as file:
        if suffix == ".npz":
            np.savez(file, allow_pickle=False, **columns)
            return
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({k: list(v) for k, v in columns.items()}), file)


if __name__ == "__main__":
    main()
