"""Which videos a probe learns a label from, and which it is then asked about."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped


class Sides(NamedTuple):
    """Rows of the videos whose label a probe is told, and of those that it is asked about."""

    fit: Int[np.ndarray, " k"]
    test: Int[np.ndarray, " q"]
    within_test: bool  # both are held-out videos


def sides(
    values: Shaped[np.ndarray, " n"],
    split: Shaped[np.ndarray, " n"],
    *,
    is_group: bool,
    seed: int,
) -> Sides:
    """The training videos to fit on and the held-out ones to test on, those with a value.

    The values of the group never stand on both sides, nor do those of a label that follows from
    it; there the held-out videos are halved instead, value by value.
    """
    train = np.flatnonzero((values != "") & (split == "train"))
    test = np.flatnonzero((values != "") & (split == "test"))
    if is_group or not set(values[train]) & set(values[test]):
        return _halves(values, test, seed)
    return Sides(train, test, within_test=False)


def leave_groups_out(
    values: Shaped[np.ndarray, " n"], groups: Shaped[np.ndarray, " n"]
) -> list[Sides]:
    """For each group in turn, the videos of all others and its own, those with a value."""
    known = values != ""
    return [
        Sides(
            np.flatnonzero(known & (groups != group)),
            np.flatnonzero(known & (groups == group)),
            within_test=False,
        )
        for group in np.unique(groups[known])
    ]


def _halves(values: np.ndarray, rows: np.ndarray, seed: int) -> Sides:
    """Half of each value's rows on either side, one more to fit; values of one row left out."""
    shuffled = np.random.default_rng(seed).permutation(rows)
    fit: list[int] = []
    test: list[int] = []
    for value in sorted(set(values[rows])):
        mine = shuffled[values[shuffled] == value]
        if len(mine) > 1:
            half = (len(mine) + 1) // 2
            fit += mine[:half].tolist()
            test += mine[half:].tolist()
    return Sides(np.array(sorted(fit), int), np.array(sorted(test), int), within_test=True)


def obstacle(values: Shaped[np.ndarray, " n"], sides: Sides) -> str:
    """Why no accuracy can be told, or ""."""
    num_values = len(set(values[sides.fit]))
    where = "held-out" if sides.within_test else "training"
    if num_values < 2:
        return f"the {where} videos to fit on have {num_values} values"
    return "" if len(sides.test) else "no held-out video has a value to test"


def chance(values: Shaped[np.ndarray, " q"]) -> float:
    """Accuracy of always answering the most frequent of `values`."""
    return float(np.unique(values, return_counts=True)[1].max() / len(values))
