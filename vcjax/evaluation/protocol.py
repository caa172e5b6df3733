"""The rows that a probe is fitted and evaluated on, for each label."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from vcjax.runtime import checks


class TrainTest(NamedTuple):
    """Rows of the videos that a probe is fitted on and of the videos that it is evaluated on."""

    train: Int[np.ndarray, " k"]
    test: Int[np.ndarray, " q"]
    within_test: bool  # True if both are held-out videos


@checks.arguments
def sides(
    values: Shaped[np.ndarray, " n"],
    split: Shaped[np.ndarray, " n"],
    *,
    is_group: bool,
    seed: int,
) -> TrainTest:
    """Return the labeled training videos to fit on and the labeled held-out videos to evaluate.

    If the label is the group (`is_group`), or no value occurs in both splits, a probe cannot be
    fitted on the training videos; the held-out videos of each value are then halved instead, in an
    order drawn from `seed`. A video whose value is "" is unlabeled.
    """
    train = np.flatnonzero((values != "") & (split == "train"))
    test = np.flatnonzero((values != "") & (split == "test"))
    if is_group or not set(values[train]) & set(values[test]):
        return _halves(values, test, seed)
    return TrainTest(train, test, within_test=False)


def limited(fold: TrainTest, max_train: int, *, seed: int) -> TrainTest:
    """Return the fold with at most `max_train` random rows to fit on; 0: all."""
    if not 0 < max_train < len(fold.train):
        return fold
    drawn = np.random.default_rng(seed).choice(fold.train, max_train, replace=False)
    return fold._replace(train=np.sort(drawn))


@checks.arguments
def leave_groups_out(
    values: Shaped[np.ndarray, " n"], groups: Shaped[np.ndarray, " n"]
) -> list[TrainTest]:
    """Return one fold per group: its labeled videos to evaluate, all other labeled ones to fit."""
    labeled = values != ""
    return [
        TrainTest(
            np.flatnonzero(labeled & (groups != group)),
            np.flatnonzero(labeled & (groups == group)),
            within_test=False,
        )
        for group in np.unique(groups[labeled])
    ]


def _halves(values: np.ndarray, rows: np.ndarray, seed: int) -> TrainTest:
    """Split the rows of each value in half at random.

    The odd row goes to the training half. Values with a single row are left out.
    """
    shuffled = np.random.default_rng(seed).permutation(rows)
    train: list[int] = []
    test: list[int] = []
    for value in sorted(set(values[rows])):
        members = shuffled[values[shuffled] == value]
        if len(members) > 1:
            half = (len(members) + 1) // 2
            train += members[:half].tolist()
            test += members[half:].tolist()
    return TrainTest(np.array(sorted(train), int), np.array(sorted(test), int), within_test=True)


@checks.arguments
def obstacle(values: Shaped[np.ndarray, " n"], sides: TrainTest) -> str:
    """Return the reason why a probe cannot be evaluated on this split, or "" if it can."""
    num_values = len(set(values[sides.train]))
    where = "held-out" if sides.within_test else "training"
    if num_values < 2:
        return f"the {where} videos to fit on have {num_values} values, at least 2 are needed"
    return "" if len(sides.test) else "no held-out video has a value to test"


def first_obstacle(values: Shaped[np.ndarray, " n"], folds: Sequence[TrainTest]) -> str:
    """Return the reason why a probe cannot be evaluated on these folds, or "" if it can."""
    if not any(set(values[fold.train]) & set(values[fold.test]) for fold in folds):
        return "no value occurs among both training and test videos"
    return next(filter(None, (obstacle(values, fold) for fold in folds)), "")


@checks.arguments
def chance(values: Shaped[np.ndarray, " q"]) -> float:
    """Return the accuracy in [0, 1] of always predicting the most frequent of `values`."""
    if not len(values):
        raise ValueError("values is empty; pass the label of at least one video")
    return float(np.unique(values, return_counts=True)[1].max() / len(values))
