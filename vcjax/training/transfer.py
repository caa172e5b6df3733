"""Labeled videos, their splits, and the accuracy of a finetuned network (Sec. 4.2, 4.4)."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped
from ml_collections import ConfigDict

from vcjax import settings
from vcjax.data import folders, verify
from vcjax.data import manifest as manifests
from vcjax.data.manifest import Manifest
from vcjax.data.splits import assign_split
from vcjax.runtime import hosts
from vcjax.training import finetune
from vcjax.training.finetune import Labeled

log = logging.getLogger(__name__)

_LABELS = ("class", "label", "action", "motion")  # columns taken for the classes, in this order


class Split(NamedTuple):
    """Rows of the training and of the test videos."""

    train: Int[np.ndarray, " k"]
    test: Int[np.ndarray, " q"]


def verified(config: ConfigDict, source: str, *, directory: Path, num_workers: int) -> Manifest:
    """Return the verified videos of the manifest `source`.

    They are verified once; the result is stored in `directory`, the folder of the stage.
    """
    stored = directory / "manifest.tsv"

    def check() -> None:
        manifest, problems = verify.verify(
            manifests.read(source),
            on_error=config.data.on_error,
            decode=config.data.verify == "decode",
            num_workers=num_workers,
        )
        manifests.save_problems(problems, directory / "problems.tsv")
        manifests.save(manifest, stored)
        log.info("%s", manifests.summary(manifest, problems))

    hosts.run_on_primary(lambda: None if stored.exists() else check())
    return manifests.load(stored)


def label_column(manifest: Manifest, column: str) -> str:
    """Return the column of the classes: `column`, or if it is "" the first of the usual columns.

    Raises:
      SettingsError: if `manifest` has no such column.
    """
    present = [c for c in ((column,) if column else _LABELS) if c in manifest.labels]
    if not present:
        raise settings.SettingsError(
            f"no column {column or 'of classes'!r} among the labels "
            f"{folders.some(sorted(manifest.labels))}; name it with --config.STAGE.label=COLUMN"
        )
    return present[0]


def splits(
    manifest: Manifest, label: str, columns: tuple[str, ...], *, group: str, config: ConfigDict
) -> dict[str, Split]:
    """Return the rows of each split, by the name of its column.

    A column of folds, without the values "train" and "test", gives a split for each value, such as
    fold0, whose videos are its test videos. Videos without a label belong to neither side, nor do
    videos without "train", "test" or a fold.

    Args:
      manifest: the labeled videos.
      label: column of the classes.
      columns: columns of the splits. (): the columns split1 to split3 that `manifest` has; if it
        has none of them, `split`, which is drawn at random where it is empty.
      group: column whose groups are held out as a whole, or "".
      config: the settings of the run, for the size and the seed of a random split.

    Raises:
      SettingsError: if a column is missing, or has no training or no test videos.
    """
    names = columns or tuple(c for c in manifests.SPLITS if c in manifest.labels) or ("split",)
    has_label = np.array(manifest.labels[label]) != ""
    rows_of = {}
    for name in names:
        if name != "split" and name not in manifest.labels:
            raise settings.SettingsError(
                f"no column {name!r} among {folders.some(sorted(manifest.labels))}; set "
                "--config.STAGE.splits"
            )
        drawn = name == "split"
        sides = np.array(_draw_split(manifest, group, config) if drawn else manifest.labels[name])
        folds = sorted(set(sides[has_label]) - {""})
        if len(folds) > 1 and not {"train", "test"} & set(folds):
            for fold in folds:
                test = has_label & (sides == fold)
                train = has_label & (sides != fold) & (sides != "")
                key = f"{name}{fold}".replace("/", "_")
                rows_of[key] = Split(np.flatnonzero(train), np.flatnonzero(test))
            continue
        train, test = (np.flatnonzero(has_label & (sides == s)) for s in ("train", "test"))
        if not len(train) or not len(test):
            raise settings.SettingsError(
                f"column {name!r} has {len(train)} training and {len(test)} test videos; "
                "both sides need at least one labeled video"
            )
        rows_of[name] = Split(train, test)
    return rows_of


def _draw_split(manifest: Manifest, group: str, config: ConfigDict) -> tuple[str, ...]:
    return assign_split(manifest, group=group, holdout=config.data.holdout, seed=config.seed).split


def hold_out(
    manifest: Manifest, rows: Int[np.ndarray, " k"], *, group: str, holdout: float, seed: int
) -> Split:
    """Split `rows` into rows to train on and the fraction `holdout` for validation.

    Groups are held out as a whole, unless there is only one.
    """
    some = replace(manifest.take(rows.tolist()), split=("",) * len(rows))
    group = group if group and len(set(some.labels[group])) > 1 else ""
    side = np.array(assign_split(some, group=group, holdout=holdout, seed=seed).split)
    return Split(rows[side == "train"], rows[side == "test"])


def subsample_classes(
    values: Shaped[np.ndarray, " n"], rows: Int[np.ndarray, " k"], count: int, *, seed: int
) -> Int[np.ndarray, " k2"]:
    """Return at most `count` random rows of each value, sorted; all rows if `count` is 0."""
    if not count:
        return rows
    order = np.random.default_rng([seed, count]).permutation(rows)
    return np.sort(np.concatenate([order[values[order] == v][:count] for v in set(values[rows])]))


def sides(
    stage: ConfigDict,
    config: ConfigDict,
    manifest: Manifest,
    split: Split,
    label: str,
    group: str,
) -> Split:
    """Return the rows to train on and the rows whose loss determines the learning rate.

    Args:
      stage: the section of the finetuning stage.
      config: the settings of the run.
      manifest: the labeled videos.
      split: the rows of training and of test videos.
      label: column of the classes.
      group: column whose groups are held out as a whole, or "".

    Raises:
      SettingsError: if `plateau_split` is unknown.
    """
    values = np.array(manifest.labels[label])
    rows = subsample_classes(values, split.train, stage.videos_per_class, seed=config.seed)
    if stage.plateau_split == "holdout":
        return hold_out(manifest, rows, group=group, holdout=stage.holdout, seed=config.seed)
    if stage.plateau_split == "test":
        return Split(rows, split.test[np.isin(values[split.test], values[split.train])])
    raise settings.SettingsError(f"plateau_split is {stage.plateau_split!r}; use holdout or test")


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
    """Finetune a network on the training side of a split and evaluate it on the test side.

    Args:
      name: STAGE/SPLIT.
      config: the settings of the run.
      manifest: the labeled videos.
      split: the rows of both sides.
      label: column of the classes.
      group: column whose groups are held out as a whole for validation, or "".
      start: folder of the stage to initialize the backbone from; None: random weights.
      workdir: folder of the run.

    Returns:
      Top-1 accuracy in [0, 1] on the test side, the number of videos, and the classes.
    """
    stage = config[name.split("/")[0]]
    values = np.array(manifest.labels[label])
    names = np.unique(values[split.train])
    train_rows, validation_rows = sides(stage, config, manifest, split, label, group)

    def labeled(rows: Int[np.ndarray, " k"]) -> Labeled:
        number = {value: i for i, value in enumerate(names)}
        classes = np.array([number.get(value, -1) for value in values[rows]], np.int32)
        return Labeled(manifest.take(rows.tolist()), classes)

    test = labeled(split.test)
    train, validation = labeled(train_rows), labeled(validation_rows)
    network = finetune.finetune(
        name,
        config,
        train=train,
        validation=validation,
        num_classes=len(names),
        start=start,
        workdir=workdir,
    )

    def accuracy() -> float:
        logits = finetune.clip_logits(
            network, test.videos, config, stage, clips_per_video=config.evaluation.clips_per_video
        )
        return float(np.mean(finetune.predict(logits, average=stage.average) == test.classes))

    return {
        "accuracy": hosts.run_on_primary(accuracy),
        "num_train": len(train.videos),
        "num_watched": len(validation.videos),
        "num_test": len(test.videos),
        "num_classes": len(names),
        "classes": names.tolist(),  # in the order of the logits
    }
