"""Nearest-neighbor measures of an embedding: recall at k and weighted k-NN classification."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from vcjax.clustering import neighbors
from vcjax.evaluation import probes
from vcjax.runtime import checks


@checks.arguments
def recall(
    x_train: Float[np.ndarray, "k d"],
    y_train: Shaped[np.ndarray, " k"],
    x_test: Float[np.ndarray, "q d"],
    y_test: Shaped[np.ndarray, " q"],
    *,
    depths: Sequence[int],
) -> dict[str, float]:
    """Return R@k in [0, 1] for each k of `depths`, the keys as text.

    R@k is the fraction of test rows with at least one training row of the same label among the k
    nearest by cosine similarity: test videos are the queries, training videos the gallery (Buechler
    et al. 2018; Han et al. 2020). A depth above the number of training rows retrieves all of them.

    Args:
      x_train: embeddings of the gallery.
      y_train: their labels.
      x_test: embeddings of the queries.
      y_test: their labels.
      depths: values of k.
    """
    for depth in depths:
        checks.count("a depth", depth)
    order = _nearest(x_train, x_test, max(depths, default=1))
    hits = y_train[order] == y_test[:, None]
    return {str(depth): float(hits[:, :depth].any(axis=1).mean()) for depth in depths}


@checks.arguments
def vote(
    x_train: Float[np.ndarray, "k d"],
    y_train: Shaped[np.ndarray, " k"],
    x_test: Float[np.ndarray, "q d"],
    *,
    num_neighbors: int,
    temperature: float,
) -> Shaped[np.ndarray, " q"]:
    """Return the predictions of the weighted k-NN classifier of Wu et al. (2018), Sec. 3.4.

    Each neighbor votes for its label with weight exp(cosine / temperature).

    Args:
      x_train: embeddings of the training videos.
      y_train: their labels.
      x_test: embeddings of the videos to predict the label of.
      num_neighbors: k, at most the number of training rows.
      temperature: of the weights.

    Returns:
      One label per test row; ties are broken by the order of the labels.
    """
    checks.positive("temperature", temperature)
    order = _nearest(x_train, x_test, num_neighbors)
    unit_train, unit_test = probes.unit(x_train), probes.unit(x_test)
    similarity = np.einsum("qd,qkd->qk", unit_test, unit_train[order])
    weight = np.exp((similarity - 1) / temperature)
    classes = np.unique(y_train)
    votes = [np.where(y_train[order] == value, weight, 0).sum(axis=1) for value in classes]
    return classes[np.argmax(votes, axis=0)]


def _nearest(x_train: np.ndarray, x_test: np.ndarray, count: int) -> np.ndarray:
    return neighbors.nearest(
        probes.unit(x_test), probes.unit(x_train), num_neighbors=min(count, len(x_train))
    )
