"""Descriptions of the clusters of one K-means run: size, central videos, common labels."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped


class Common(NamedTuple):
    """The most frequent value of a label in a cluster, and its fraction of the cluster's videos."""

    value: str
    share: float


class Cluster(NamedTuple):
    """A cluster; `number` is None for the group of all videos without a cluster."""

    number: int | None
    size: int
    nearest: tuple[int, ...]  # rows, by increasing distance to the cluster's mean
    common: Mapping[str, Common]


def describe(
    labels: Int[np.ndarray, " n"],
    distances: Float[np.ndarray, " n"],
    columns: Mapping[str, Shaped[np.ndarray, " n"]],
    *,
    has_point: Bool[np.ndarray, " n"],
    num_nearest: int,
) -> list[Cluster]:
    """Return the clusters by decreasing size, then the rows without a point as one group, if any.

    Args:
      labels: the cluster of each row.
      distances: the distance of each row to the mean of its cluster.
      columns: the labels of each row by name; "" is unlabeled.
      has_point: False for the rows to group at the end.
      num_nearest: maximum number of rows listed for each cluster.
    """
    described = []
    with_point = np.flatnonzero(has_point)
    order = with_point[np.argsort(labels[with_point], kind="stable")]
    for rows in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1) if len(order) else ():
        nearest = rows[np.argsort(distances[rows], kind="stable")]
        described.append(_cluster(int(labels[rows[0]]), nearest, columns, num_nearest))
    described.sort(key=lambda cluster: -cluster.size)
    if not has_point.all():
        described.append(_cluster(None, np.flatnonzero(~has_point), columns, num_nearest))
    return described


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
