"""Accuracy from a few labeled videos per class, of IDT vectors, networks and other embeddings.

vcjax label-efficiency --manifest VIDEOS --label COLUMN --run runs/mine --out runs/mine/labels
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vcjax.runtime import atomic, extras

if TYPE_CHECKING:
    from vcjax.data.manifest import Manifest
    from vcjax.evaluation.label_efficiency import Features

_FISHER = ("looks", "motion", "idt")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and exit with a message if the input is invalid."""
    parser = argparse.ArgumentParser(
        prog="vcjax label-efficiency",
        description=__doc__.partition("\n")[0],
        epilog="Without held-out videos in the column `split`, a quarter of the videos is held "
        "out, in whole groups of the column group, scene or sequence if the table has one.",
    )
    parser.add_argument("--manifest", required=True, help="folder, or table with a path column")
    parser.add_argument("--label", required=True, help="column of the classes; may be incomplete")
    parser.add_argument("--run", type=Path, help="folder of `vcjax explore`, for its IDT vectors")
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="network, as for vcjax.load; repeatable",
    )
    parser.add_argument(
        "--embeddings",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="embeddings, .npz or .parquet with the column video_id; repeatable",
    )
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 5, 10, 20])
    parser.add_argument("--num_draws", type=int, default=10, help="random samples per shot")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split and the samples")
    parser.add_argument("--out", type=Path, required=True, help="folder of the table and the plot")
    options = parser.parse_args(arguments)
    try:
        with extras.explained():
            _measure(options)
    except (ValueError, OSError) as error:
        sys.exit(f"vcjax.label-efficiency: {error}")


def _measure(options: argparse.Namespace) -> None:
    from vcjax.data import manifest as manifests
    from vcjax.data import splits
    from vcjax.evaluation import label_efficiency
    from vcjax.settings import GROUP_COLUMNS

    if min([*options.shots, options.num_draws]) < 1:
        raise ValueError("--shots and --num_draws must be at least 1")
    manifest = manifests.read(options.manifest)
    if options.label not in manifest.labels:
        raise ValueError(
            f"--label is {options.label!r}; use one of the columns {sorted(manifest.own_labels)} "
            f"of {options.manifest}"
        )
    group = next((c for c in GROUP_COLUMNS if c in manifest.labels and c != options.label), "")
    if "test" not in manifest.split:  # such as the table of `vcjax explore`, which holds out none
        manifest = replace(manifest, split=("",) * len(manifest))
    manifest = splits.assign_split(manifest, group=group, holdout=0.25, seed=options.seed)
    result = label_efficiency.measure(
        _features(options, manifest),
        np.array(manifest.labels[options.label]),
        np.array(manifest.split),
        label=options.label,
        shots=sorted(set(options.shots)),
        num_draws=options.num_draws,
        seed=options.seed,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, allow_nan=False) + "\n"
    atomic.write_text(options.out / "label_efficiency.json", text)
    label_efficiency.plot(result, options.out / "label_efficiency.png")
    print(label_efficiency.table(result))
    print(f"plot: {options.out / 'label_efficiency.png'}")


def _features(options: argparse.Namespace, manifest: "Manifest") -> "dict[str, Features]":
    """Return the features of all sources by name.

    Raises:
        ValueError: If there is no source, or a name is given twice.
    """
    from vcjax.evaluation import embeddings
    from vcjax.evaluation.label_efficiency import Features

    found: dict[str, Features] = {}
    if options.run:
        path = options.run / "explore" / "vectors.npz"
        if not path.is_file():
            raise ValueError(f"{path}: no such file; run `vcjax explore` with --out {options.run}")
        for name in _FISHER:
            rows = embeddings.read(embeddings.Source(name, path, name), manifest.video_ids)
            found[name] = Features(rows, is_fisher=True)
    sources = [embeddings.parse(text) for text in options.embeddings]
    networks = [text.partition("=")[::2] for text in options.checkpoint]
    names = [*found, *(source.name for source in sources), *(name for name, _ in networks)]
    if not names:
        raise ValueError("no features: add --run, --checkpoint or --embeddings")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"the name {twice[0]!r} is given twice; use different names")
    found |= {s.name: Features(embeddings.read(s, manifest.video_ids)) for s in sources}
    for name, folder in networks:
        if not name or not folder:
            raise ValueError("--checkpoint needs NAME=FOLDER, such as la=runs/mine/la")
        found[name] = Features(_pooled(options.out, name, folder, manifest))
    return found


def _pooled(out: Path, name: str, folder: str, manifest: "Manifest") -> np.ndarray:
    """Return the pooled features of a network, which are kept in OUT/features."""
    from vcjax import pretrained
    from vcjax.data import verify
    from vcjax.evaluation import frozen

    counted, _ = verify.verify(manifest, on_error="error", decode=False, num_workers=1)
    network, name = pretrained.load(folder), re.sub(r"\W", "_", name)
    features = frozen.features(
        out / "features",
        "label_efficiency",
        {name: network.model},
        counted,
        network.config(),
        clips_per_video=5,
    )
    return features[name].pooled


if __name__ == "__main__":
    main()
