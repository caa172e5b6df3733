"""Labeled videos to transfer to, their splits, and the results on them (Sec. 4.2, 4.4)."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped
from ml_collections import ConfigDict

from vcjax import settings
from vcjax.data import manifest as manifests
from vcjax.data import verify
from vcjax.data.manifest import Manifest
from vcjax.data.splits import assign_split
from vcjax.runtime import hosts
from vcjax.training import finetune
from vcjax.training.finetune import Labeled

log = logging.getLogger(__name__)

_LABELS = ("class", "label", "action", "motion")  # columns taken for the classes, in this order


class Split(NamedTuple):
    """Rows of the videos to learn from and to be asked about."""

    train: Int[np.ndarray, " k"]
    test: Int[np.ndarray, " q"]


def verified(
    config: ConfigDict, source: str, own: Manifest, *, directory: Path, num_workers: int
) -> Manifest:
    """The videos of `source`, verified once into `directory`; without one, the run's `own`."""
    if not source:
        return own
    kept = directory / "manifest.tsv"

    def check() -> None:
        manifest, problems = verify.verify(
            manifests.read(source),
            on_error=config.data.on_error,
            decode=config.data.verify == "decode",
            num_workers=num_workers,
        )
        manifests.save_problems(problems, directory / "problems.tsv")
        manifests.save(manifest, kept)
        log.info("%s", manifests.summary(manifest, problems))

    hosts.run_on_primary(lambda: None if kept.exists() else check())
    return manifests.load(kept)


def label_column(manifest: Manifest, wanted: str) -> str:
    """The column of the classes: `wanted`, or "" for the usual ones. Raises SettingsError."""
    found = [c for c in ((wanted,) if wanted else _LABELS) if c in manifest.labels]
    if not found:
        raise settings.SettingsError(
            f"no column {wanted or 'of classes'!r} among the labels {sorted(manifest.labels)}; "
            "name it with --config.STAGE.label=COLUMN"
        )
    return found[0]


def splits(
    manifest: Manifest, label: str, wanted: tuple[str, ...], *, group: str, config: ConfigDict
) -> dict[str, Split]:
    """Each split's rows, of videos with a label; other values than train and test take no part.

    `wanted` are columns; (): split1 to split3 where they are, else `split`, drawn if it is missing.
    """
    names = wanted or tuple(c for c in manifests.SPLITS if c in manifest.labels) or ("split",)
    found = {}
    for name in names:
        if name != "split" and name not in manifest.labels:
            raise settings.SettingsError(f"no column {name!r} among {sorted(manifest.labels)}")
        sides = _drawn(manifest, group, config) if name == "split" else manifest.labels[name]
        known = np.array(manifest.labels[label]) != ""
        train, test = (np.flatnonzero(known & (np.array(sides) == s)) for s in ("train", "test"))
        if not len(train) or not len(test):
            raise settings.SettingsError(
                f"column {name!r} says train of {len(train)} and test of {len(test)} videos"
            )
        found[name] = Split(train, test)
    return found


def _drawn(manifest: Manifest, group: str, config: ConfigDict) -> tuple[str, ...]:
    return assign_split(manifest, group=group, holdout=config.data.holdout, seed=config.seed).split


def watched(
    manifest: Manifest, rows: Int[np.ndarray, " k"], *, group: str, holdout: float, seed: int
) -> Split:
    """`rows` less a share of them to watch while training: whole groups, where there are two."""
    some = replace(manifest.take(rows.tolist()), split=("",) * len(rows))
    group = group if group and len(set(some.labels[group])) > 1 else ""
    side = np.array(assign_split(some, group=group, holdout=holdout, seed=seed).split)
    return Split(rows[side == "train"], rows[side == "test"])


def at_most(
    values: Shaped[np.ndarray, " n"], rows: Int[np.ndarray, " k"], count: int, *, seed: int
) -> Int[np.ndarray, " k2"]:
    """A random `count` of the rows of each value; 0: all."""
    if not count:
        return rows
    order = np.random.default_rng([seed, count]).permutation(rows)
    return np.sort(np.concatenate([order[values[order] == v][:count] for v in set(values[rows])]))


def finetune_split(
    name: str,
    config: ConfigDict,
    manifest: Manifest,
    split: Split,
    label: str,
    *,
    group: str,
    start: Path | None,
    workdir: Path,
) -> dict[str, Any]:
    """Accuracy on the test side of a network finetuned on the other; `name` is STAGE/SPLIT."""
    stage = config[name.split("/")[0]]
    values = np.array(manifest.labels[label])
    names = np.unique(values[split.train])
    rows = at_most(values, split.train, stage.videos_per_class, seed=config.seed)

    def labeled(rows: Int[np.ndarray, " k"]) -> Labeled:
        number = {value: i for i, value in enumerate(names)}
        classes = np.array([number.get(value, -1) for value in values[rows]], np.int32)
        return Labeled(manifest.take(rows.tolist()), classes)

    test = labeled(split.test)
    if stage.plateau_split == "holdout":
        sides = watched(manifest, rows, group=group, holdout=stage.holdout, seed=config.seed)
        fit, seen = labeled(sides.train), labeled(sides.test)
    elif stage.plateau_split == "test":
        fit, seen = labeled(rows), labeled(split.test[np.isin(values[split.test], names)])
    else:
        raise settings.SettingsError(f"watched is {stage.plateau_split!r}; use holdout or test")
    network = finetune.finetune(
        name,
        config,
        fit=fit,
        watched=seen,
        num_classes=len(names),
        start=start,
        workdir=workdir,
    )

    def accuracy() -> float:
        said = finetune.clip_logits(
            network, test.videos, config, stage, clips_per_video=config.evaluation.clips_per_video
        )
        return float(np.mean(finetune.predict(said, average=stage.average) == test.classes))

    return {
        "accuracy": hosts.run_on_primary(accuracy),
        "num_train": len(fit.videos),
        "num_watched": len(seen.videos),
        "num_test": len(test.videos),
        "num_classes": len(names),
    }
