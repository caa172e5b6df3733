"""Weights from and for PyTorch, and the authors' released files.

python -m vcjax.interop import CHECKPOINT.pth.tar --out FOLDER [--annotations KINETICS.json]
python -m vcjax.interop export runs/mine/la --out FOLDER
python -m vcjax.interop fisher FOLDER_OF_DAT --out vectors.npz
python -m vcjax.interop clusters CHECKPOINT.pth.tar --out labels.npz
python -m vcjax.interop manifest KINETICS.json --videos FOLDER --out videos.tsv
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vcjax import pretrained
from vcjax.interop import released, torch_files
from vcjax.models import state_dict as weights
from vcjax.models.resnet3d import ResNet3D
from vcjax.runtime import atomic


def main(arguments: Sequence[str] | None = None) -> None:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m vcjax.interop", description=__doc__.partition("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    brought = commands.add_parser("import", help="a PyTorch checkpoint to a folder of ours")
    brought.add_argument("source", type=Path, help="of the released code, 3D-ResNets, or bare")
    brought.add_argument("--out", type=Path, required=True, help="folder for vcjax.load")
    brought.add_argument("--annotations", type=Path, help="JSON that names the rows of the bank")
    brought.add_argument("--num_frames", type=int, default=16, help="of the clips trained on")
    brought.add_argument("--side", type=int, default=112, help="of the clips, pixels")
    brought.set_defaults(run=_import)
    export = commands.add_parser("export", help="to safetensors and a PyTorch state dict")
    export.add_argument("source", help="a training stage's folder, an exported one, or a hub id")
    export.add_argument("--out", type=Path, required=True, help="folder")
    export.set_defaults(run=_export)
    fisher = commands.add_parser("fisher", help="released Fisher vectors (.dat) to vectors.npz")
    clusters = commands.add_parser("clusters", help="released cluster_labels to labels.npz")
    for command, run in ((fisher, _fisher), (clusters, _clusters)):
        command.add_argument("source", type=Path)
        command.add_argument("--out", type=Path, required=True, help="an npz file")
        command.set_defaults(run=run)
    manifest = commands.add_parser("manifest", help="annotation JSON to a manifest")
    manifest.add_argument("source", type=Path)
    manifest.add_argument("--videos", type=Path, required=True, help="folder of the files")
    manifest.add_argument("--out", type=Path, required=True, help="a TSV file")
    manifest.set_defaults(run=_manifest)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        sys.exit(f"vcjax.interop: {error}")


def _import(options: argparse.Namespace) -> None:
    from flax import nnx

    found = released.checkpoint(options.source)
    depth, width, dim = weights.shape(weights.to_torch(found.arrays))
    architecture = {"depth": depth, "width": width, "embedding_dim": dim}
    model = ResNet3D(depth=depth, width=width, embedding_dim=dim, rngs=nnx.Rngs(0))
    weights.load(model, found.arrays)
    clip = {"num_frames": options.num_frames, "stride": 1, "side": options.side}
    source = {"file": options.source.name} | found.facts
    network = pretrained.Pretrained(model, architecture, clip, source)
    named = _named_rows(options.annotations, found.bank)
    pretrained.save(network, options.out, rows={"bank": found.bank, "labels": found.labels})
    if named:
        with atomic.replacing(options.out / "video_ids.txt") as file:
            file.write("".join(f"{video_id}\n" for video_id in named).encode())
    rows = "no bank" if found.bank is None else f"a bank of {len(found.bank)} videos"
    print(f"{options.out}: depth {depth}, width {width}, embedding {dim}; {rows}")


def _named_rows(annotations: Path | None, bank: np.ndarray | None) -> list[str]:
    """Ids of the bank's rows: the released code's order is that of the training videos."""
    if annotations is None:
        return []
    named = [v.video_id for v in released.annotations(annotations) if v.split == "train"]
    if bank is None or len(named) != len(bank):
        count = "no bank" if bank is None else f"{len(bank)} rows in the bank"
        raise ValueError(f"{annotations}: {len(named)} training videos, and {count}")
    return named


def _export(options: argparse.Namespace) -> None:
    network = pretrained.load(options.source)
    pretrained.save(network, options.out)
    with atomic.replacing(options.out / "pytorch_model.pth") as file:
        torch_files.write(weights.to_torch(weights.arrays(network.model)), file)
    print(f"{options.out}: {', '.join(sorted(path.name for path in options.out.iterdir()))}")


def _fisher(options: argparse.Namespace) -> None:
    vectors = released.fisher_vectors(options.source)
    vectors.save(options.out)
    print(f"{options.out}: {len(vectors.video_ids)} vectors of {vectors.vectors.shape[1]} values")


def _clusters(options: argparse.Namespace) -> None:
    labels = released.clusters(options.source)
    with atomic.replacing(options.out) as file:
        np.savez(file, labels=labels)
    print(f"{options.out}: {labels.shape[0]} clusterings of {labels.shape[1]} videos")


def _manifest(options: argparse.Namespace) -> None:
    videos = released.annotations(options.source)
    table, missing = released.manifest(videos, options.videos)
    if len(missing) == len(videos):
        raise ValueError(f"none of {len(videos)} videos is in {options.videos}")
    with atomic.replacing(options.out) as file:
        file.write(table.encode())
    print(f"{options.out}: {len(videos) - len(missing)} videos; {len(missing)} are not there")


if __name__ == "__main__":
    main()
