"""Comparison of spaces in which the same videos lie, such as looks and motion (Sec. 4.5).

No video is held out: each one is compared with all others, or with the videos of other groups.
"""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from vcjax.evaluation import agreement, probes, protocol
from vcjax.evaluation.measures import ProbeSettings

_TILE = 256  # videos whose similarities to all videos are held at once


class Space(NamedTuple):
    """Vectors of n videos, and clusters of the videos that have a vector."""

    vectors: Float[np.ndarray, "n d"]  # zeros for a video without a vector
    has_vector: Bool[np.ndarray, " n"]
    labels: Int[np.ndarray, "runs n"]  # a video without a vector is a cluster of its own


class Candidates(NamedTuple):
    """Videos that may be neighbors."""

    allowed: Bool[np.ndarray, " n"]
    groups: Int[np.ndarray, " n"] | None = None  # a neighbor is from another group; None: any


class Ranking(NamedTuple):
    """The k nearest candidates of each video by cosine similarity, the nearest first."""

    rows: Int[np.ndarray, "n k"]  # -1 if there are fewer candidates
    similarity: Float[np.ndarray, "n k"]


def report(
    columns: Mapping[str, Shaped[np.ndarray, " n"]],
    spaces: Mapping[str, Space],
    *,
    group: str,
    num_shared: int,
    probing: ProbeSettings,
    dataset: str,
    seed: int,
) -> dict[str, Any]:
    """Return the report on all spaces: agreement of clusters, k-NN, retrieval, shared neighbors.

    Args:
      columns: the labels of the n videos by name.
      spaces: the spaces by name.
      group: label column whose values do not count as neighbors of each other, or "".
      num_shared: number of neighbors of which two spaces share a part.
      probing: settings of k-NN and retrieval.
      dataset: title of the report.
      seed: seed of the run, for the record.
    """
    apart = {name: _apart(columns, name, group) for name in columns}
    evaluated = {name: v for name, v in columns.items() if _has_pairs(v)}
    measured = {
        name: measure(
            space, evaluated, {k: columns[g] for k, g in apart.items() if g}, num_shared, probing
        )
        for name, space in spaces.items()
    }
    for name, space in spaces.items():
        sizes = np.unique(space.labels[0][space.has_vector], return_counts=True)[1]
        measured[name][0]["clusters"]["sizes"] = sorted(sizes.tolist(), reverse=True)
    common = np.all([space.has_vector for space in spaces.values()], axis=0)
    return {
        "dataset": dataset,
        "seed": seed,
        "models": {name: entry for name, (entry, _) in measured.items()},
        "chance": {k: protocol.chance(v[v != ""]) for k, v in evaluated.items()},
        "leave_one_out": {
            k: {"num": int((v != "").sum()), "apart": apart[k]} for k, v in evaluated.items()
        },
        "without_vector": {k: int((~s.has_vector).sum()) for k, s in spaces.items()},
        "shared_neighbors": _shared({k: near for k, (_, near) in measured.items()}, common),
    }


def measure(
    space: Space,
    columns: Mapping[str, Shaped[np.ndarray, " n"]],
    groups: Mapping[str, Shaped[np.ndarray, " n"]],
    num_shared: int,
    probing: ProbeSettings,
) -> tuple[dict[str, Any], Int[np.ndarray, "n k"]]:
    """Return the measures of one space, and the `num_shared` nearest neighbors of each video.

    Args:
      space: the space.
      columns: the labels to evaluate, by name.
      groups: for a label, groups within which videos do not count as neighbors.
      num_shared: number of neighbors to return.
      probing: settings of k-NN and retrieval.
    """
    candidates = {
        name: Candidates(
            space.has_vector & (values != ""),
            np.unique(groups[name], return_inverse=True)[1] if name in groups else None,
        )
        for name, values in columns.items()
    }
    count = max(probing.num_neighbors, *probing.retrieval, num_shared)
    ranked = rank(space.vectors, {**candidates, "": Candidates(space.has_vector)}, count)
    everything = np.arange(len(space.vectors))
    entry: dict[str, Any] = {"neighbor": {}, "linear": {}, "vote": {}, "retrieval": {}}
    entry["clusters"] = agreement.agreement_of(space.labels, space.has_vector, columns, everything)
    for name, values in columns.items():
        rows = np.flatnonzero(candidates[name].allowed)
        if len(rows) < 2:
            continue
        near = Ranking(*(part[rows] for part in ranked[name]))
        hits = (values[near.rows] == values[rows][:, None]) & (near.rows >= 0)
        entry["neighbor"][name] = float(hits[:, 0].mean())
        entry["retrieval"][name] = {
            str(depth): float(hits[:, :depth].any(axis=1).mean()) for depth in probing.retrieval
        }
        predictions = _vote(near, values, probing)
        entry["vote"][name] = float(np.mean(predictions == values[rows]))
    return entry, ranked[""].rows[:, :num_shared]


def rank(
    vectors: Float[np.ndarray, "n d"], candidates: Mapping[str, Candidates], count: int
) -> dict[str, Ranking]:
    """Return the at most `count` nearest candidates of each video, for each set of candidates.

    A video is not a neighbor of itself. Ties are broken by the lower index.
    """
    unit = probes.unit(vectors)
    count = min(count, max(len(unit) - 1, 1))
    parts: dict[str, list[Ranking]] = {name: [] for name in candidates}
    for start in range(0, len(unit), _TILE):
        tile = np.arange(start, min(start + _TILE, len(unit)))
        similarity = unit[tile] @ unit.T
        similarity[np.arange(len(tile)), tile] = -np.inf
        for name, (allowed, groups) in candidates.items():
            masked = np.where(allowed, similarity, -np.inf)
            if groups is not None:
                masked[groups[tile][:, None] == groups] = -np.inf
            parts[name].append(_largest(masked, count))
    return {
        name: Ranking(*(np.concatenate(part) for part in zip(*tiles, strict=True)))
        for name, tiles in parts.items()
    }


def _largest(values: Float[np.ndarray, "q n"], count: int) -> Ranking:
    part = np.sort(np.argpartition(-values, count - 1, axis=1)[:, :count], axis=1)
    chosen = np.take_along_axis(values, part, axis=1)
    order = np.argsort(-chosen, axis=1, kind="stable")
    rows, similarity = (np.take_along_axis(x, order, axis=1) for x in (part, chosen))
    return Ranking(np.where(np.isfinite(similarity), rows, -1), similarity)


def _vote(
    near: Ranking, values: Shaped[np.ndarray, " n"], probing: ProbeSettings
) -> Shaped[np.ndarray, " q"]:
    """Return the predictions of weighted k-NN, as `retrieval.vote`."""
    rows, similarity = (part[:, : probing.num_neighbors] for part in near)
    weight = np.exp((similarity - 1) / probing.temperature)  # 0 where there is no candidate
    classes = np.unique(values[values != ""])
    votes = [np.where(values[rows] == value, weight, 0).sum(axis=1) for value in classes]
    return classes[np.argmax(votes, axis=0)]


def _has_pairs(values: Shaped[np.ndarray, " n"]) -> bool:
    """Return True if there are two values, and a value that two videos have."""
    counts = np.unique(values[values != ""], return_counts=True)[1]
    return len(counts) > 1 and bool(counts.max() > 1)


def _apart(columns: Mapping[str, np.ndarray], name: str, group: str) -> str:
    """Return `group` if a value of the label `name` occurs in two of its groups, else ""."""
    if not group or name == group:
        return ""
    pairs = {(v, g) for v, g in zip(columns[name], columns[group], strict=True) if v}
    return group if len(pairs) > len({value for value, _ in pairs}) else ""


def _shared(
    nearest: Mapping[str, Int[np.ndarray, "n k"]], common: Bool[np.ndarray, " n"]
) -> dict[str, Any]:
    """Return the mean share of neighbors that each pair of spaces has in common.

    Only videos with a vector in all spaces are compared.
    """
    others = max(int(common.sum()) - 1, 1)
    # of few videos, a third: nearly all of them would be neighbors of each
    count = min(*(near.shape[1] for near in nearest.values()), max(others // 3, 1))
    pairs = []
    for first, second in itertools.combinations(nearest, 2):
        a, b = (nearest[name][common, :count] for name in (first, second))
        same = (a[:, :, None] == b[:, None, :]) & (a >= 0)[:, :, None]
        pairs.append([first, second, float(same.any(axis=2).sum(axis=1).mean() / count)])
    return {"num_neighbors": count, "chance": min(count / others, 1.0), "pairs": pairs}
