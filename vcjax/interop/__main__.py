"""Convert weights from and to PyTorch, and read the authors' released files.

python -m vcjax.interop import CHECKPOINT.pth.tar --out FOLDER [--annotations KINETICS.json]
python -m vcjax.interop export runs/mine/la --out FOLDER
python -m vcjax.interop fisher FOLDER_OF_DAT --out vectors.npz
python -m vcjax.interop clusters CHECKPOINT.pth.tar --out labels.npz
python -m vcjax.interop manifest KINETICS.json --videos FOLDER --out videos.tsv
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

# JAX and the readers are imported by the functions below: --help should not wait for them
from vcjax.runtime import atomic, extras, xla_flags


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run its subcommand. Exit with a one-line message on an error."""
    parser = argparse.ArgumentParser(
        prog="python -m vcjax.interop", description=__doc__.partition("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    importing = commands.add_parser(
        "import",
        help="convert a PyTorch checkpoint to a folder for vcjax.load; clips and classes are taken "
        "from a config.json beside it",
    )
    importing.add_argument(
        "source", type=Path, help="checkpoint of the released code or 3D-ResNets, or a state dict"
    )
    importing.add_argument("--out", type=Path, required=True, help="folder to write")
    importing.add_argument(
        "--annotations", type=Path, help="annotation JSON, to name the rows of the memory bank"
    )
    importing.add_argument("--num_frames", type=int, default=16, help="frames of a training clip")
    importing.add_argument(
        "--side", type=int, default=112, help="side of a training clip in pixels"
    )
    importing.set_defaults(run=_import)
    export = commands.add_parser(
        "export", help="convert a network to safetensors and a PyTorch state dict"
    )
    export.add_argument("source", help="folder of a training stage or of an export, or a hub id")
    export.add_argument("--out", type=Path, required=True, help="folder to write")
    export.set_defaults(run=_export)
    fisher = commands.add_parser(
        "fisher", help="convert released Fisher vectors (.dat) to vectors.npz"
    )
    clusters = commands.add_parser("clusters", help="convert released cluster_labels to labels.npz")
    for command, run in ((fisher, _fisher), (clusters, _clusters)):
        command.add_argument("source", type=Path)
        command.add_argument("--out", type=Path, required=True, help="npz file to write")
        command.set_defaults(run=run)
    manifest = commands.add_parser("manifest", help="convert an annotation JSON to a manifest")
    manifest.add_argument("source", type=Path)
    manifest.add_argument("--videos", type=Path, required=True, help="folder of the video files")
    manifest.add_argument("--out", type=Path, required=True, help="TSV file to write")
    manifest.set_defaults(run=_manifest)
    options = parser.parse_args(arguments)
    try:
        with extras.explained():
            options.run(options)
    except (ValueError, OSError) as error:
        sys.exit(f"vcjax.interop: {error}")


def _import(options: argparse.Namespace) -> None:
    from flax import nnx

    from vcjax import pretrained
    from vcjax.interop import released
    from vcjax.models import state_dict as weights
    from vcjax.models.resnet3d import ResNet3D

    xla_flags.devices()
    checkpoint = released.checkpoint(options.source)
    depth, width, dim = weights.shape(weights.to_torch(checkpoint.arrays))
    architecture = {"depth": depth, "width": width, "embedding_dim": dim}
    model = ResNet3D(depth=depth, width=width, embedding_dim=dim, rngs=nnx.Rngs(0))
    weights.load(model, checkpoint.arrays)
    clip = {"num_frames": options.num_frames, "stride": 1, "side": options.side}
    source = {"file": options.source.name} | checkpoint.facts
    network = pretrained.Pretrained(model, architecture, clip, source)
    beside = options.source.parent
    if (beside / pretrained.CONFIG).is_file():  # of the export that the file belongs to
        exported = pretrained.load(beside)
        if exported.architecture == architecture:
            network = replace(exported, model=model)
    video_ids = _ids_of_rows(options.annotations, checkpoint.bank)
    rows = {"bank": checkpoint.bank, "labels": checkpoint.labels}
    pretrained.save(network, options.out, rows=rows)
    if video_ids:
        with atomic.atomic_write(options.out / "video_ids.txt") as file:
            file.write("".join(f"{video_id}\n" for video_id in video_ids).encode())
    bank = checkpoint.bank
    about = "no memory bank" if bank is None else f"memory bank of {len(bank)} videos"
    print(f"{options.out}: depth {depth}, width {width}, embedding {dim}; {about}")


def _ids_of_rows(annotations: Path | None, bank: np.ndarray | None) -> list[str]:
    """Return the video ids of the bank's rows, or an empty list without annotations.

    In the released code the rows are in the annotation file's order of the training videos.

    Raises:
      ValueError: if the number of training videos is not the number of rows.
    """
    from vcjax.interop import released

    if annotations is None:
        return []
    video_ids = [v.video_id for v in released.annotations(annotations) if v.split == "train"]
    if bank is None or len(video_ids) != len(bank):
        count = "no bank" if bank is None else f"{len(bank)} rows in the bank"
        raise ValueError(
            f"{annotations}: {len(video_ids)} training videos, but the checkpoint has {count}; "
            "use the annotations that it was trained with, or drop --annotations"
        )
    return video_ids


def _export(options: argparse.Namespace) -> None:
    from vcjax import pretrained
    from vcjax.interop import torch_files
    from vcjax.models import state_dict as weights

    xla_flags.devices()
    network = pretrained.load(options.source)
    pretrained.save(network, options.out)
    with atomic.atomic_write(options.out / "pytorch_model.pth") as file:
        torch_files.write(weights.to_torch(weights.arrays(network.model)), file)
    print(f"{options.out}: {', '.join(sorted(path.name for path in options.out.iterdir()))}")


def _fisher(options: argparse.Namespace) -> None:
    from vcjax.interop import released

    vectors = released.fisher_vectors(options.source)
    vectors.save(options.out)
    print(f"{options.out}: {len(vectors.video_ids)} vectors of {vectors.vectors.shape[1]} values")


def _clusters(options: argparse.Namespace) -> None:
    from vcjax.interop import released

    labels = released.clusters(options.source)
    with atomic.atomic_write(options.out) as file:
        np.savez(file, labels=labels)
    print(f"{options.out}: {labels.shape[0]} clusterings of {labels.shape[1]} videos")


def _manifest(options: argparse.Namespace) -> None:
    from vcjax.interop import released

    videos = released.annotations(options.source)
    table, missing = released.manifest(videos, options.videos)
    if len(missing) == len(videos):
        raise ValueError(f"{options.videos}: none of the {len(videos)} videos is in this folder")
    with atomic.atomic_write(options.out) as file:
        file.write(table.encode())
    print(
        f"{options.out}: {len(videos) - len(missing)} videos; "
        f"{len(missing)} videos without a file are left out"
    )


if __name__ == "__main__":
    main()
