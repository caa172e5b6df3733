"""What lies near a video: retrieval at k, and the vote of its neighbors."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from vcjax.clustering import neighbors
from vcjax.evaluation import probes


def recall(
    known: Float[np.ndarray, "k d"],
    values: Shaped[np.ndarray, " k"],
    asked: Float[np.ndarray, "q d"],
    wanted: Shaped[np.ndarray, " q"],
    *,
    depths: Sequence[int],
) -> dict[str, float]:
    """R@k: share of `asked` with a row of their value among the k most similar known ones.

    Similar by cosine. Test videos ask, training videos are found (Buechler et al. 2018; Han et al.
    2020). A depth beyond all known rows finds all of them.
    """
    order = _nearest(known, asked, max(depths))
    hits = values[order] == wanted[:, None]
    return {str(depth): float(hits[:, :depth].any(axis=1).mean()) for depth in depths}


def vote(
    known: Float[np.ndarray, "k d"],
    values: Shaped[np.ndarray, " k"],
    asked: Float[np.ndarray, "q d"],
    *,
    num_neighbors: int,
    temperature: float,
) -> Shaped[np.ndarray, " q"]:
    """The value with most weight among the neighbors, exp(cosine / temperature) each.

    The weighted k-NN classifier of Wu et al. (2018), Sec. 3.4.
    """
    order = _nearest(known, asked, num_neighbors)
    unit, asked_unit = probes.unit(known), probes.unit(asked)
    similarity = np.einsum("qd,qkd->qk", asked_unit, unit[order])
    weight = np.exp((similarity - 1) / temperature)
    present = np.unique(values)
    ballots = [np.where(values[order] == value, weight, 0).sum(axis=1) for value in present]
    return present[np.argmax(ballots, axis=0)]


def _nearest(known: np.ndarray, asked: np.ndarray, count: int) -> np.ndarray:
    return neighbors.nearest(
        probes.unit(asked), probes.unit(known), num_neighbors=min(count, len(known))
    )
