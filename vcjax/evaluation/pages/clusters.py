"""The clusters of one run, described: their size, their most typical videos, what they share."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped


class Common(NamedTuple):
    """The most frequent value of a label, and the share of the cluster's videos that have it."""

    value: str
    share: float


class Cluster(NamedTuple):
    """One cluster, or with `number` None the videos that belong to none."""

    number: int | None
    size: int
    nearest: tuple[int, ...]  # rows of the points, the nearest to their mean first
    common: Mapping[str, Common]


def describe(
    points: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    columns: Mapping[str, Shaped[np.ndarray, " n"]],
    *,
    has_point: Bool[np.ndarray, " n"],
    num_nearest: int,
) -> list[Cluster]:
    """Each cluster, the largest first; last, if there are any, the rows without a point."""
    found = []
    for number in np.unique(labels[has_point]).tolist():
        rows = np.flatnonzero(has_point & (labels == number))
        distance = np.linalg.norm(points[rows] - points[rows].mean(axis=0), axis=1)
        nearest = rows[np.argsort(distance, kind="stable")]
        found.append(_cluster(number, nearest, columns, num_nearest))
    found.sort(key=lambda cluster: -cluster.size)
    if not has_point.all():
        found.append(_cluster(None, np.flatnonzero(~has_point), columns, num_nearest))
    return found


def _cluster(
    number: int | None, rows: np.ndarray, columns: Mapping[str, np.ndarray], num_nearest: int
) -> Cluster:
    common = {}
    for column, values in columns.items():
        counts = Counter(value for value in values[rows].tolist() if value)
        if counts:
            value = min(counts, key=lambda value: (-counts[value], value))
            common[column] = Common(value, counts[value] / len(rows))
    return Cluster(number, len(rows), tuple(rows[:num_nearest].tolist()), common)
