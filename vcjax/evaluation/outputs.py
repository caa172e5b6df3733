"""Inputs of the evaluation: features of all videos and clusters of the training videos."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class ModelOutputs(NamedTuple):
    """Features and clusters of one network.

    The n videos are in the order of the manifest; only training videos are clustered.
    """

    embedding: Float[np.ndarray, "n d"]  # unit L2 norm
    pooled: Float[np.ndarray, "n f"]  # the input of the embedding head
    labels: Int[np.ndarray, "runs n_train"]  # clusters


class IdtOutputs(NamedTuple):
    """Fisher vectors of the n videos in the order of the manifest, and clusters of these.

    A training video without a vector forms a cluster of its own. The vectors are read by rows,
    since those of a large collection are several times larger than everything else in memory.
    """

    # rows -> vectors [rows, d], unit L2 norm, zeros for a video without a vector
    read: Callable[[Int[np.ndarray, " rows"]], Float[np.ndarray, "rows d"]]
    has_vector: Bool[np.ndarray, " n"]
    labels: Int[np.ndarray, "runs n_train"]  # clusters
    distances: Float[np.ndarray, "runs n_train"]  # to the mean of the video's cluster
