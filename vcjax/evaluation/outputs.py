"""What is evaluated: a network's view of all videos, or the trajectories'."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class ModelOutputs(NamedTuple):
    """One network: n videos in the order of the manifest, its training videos in several runs."""

    embedding: Float[np.ndarray, "n d"]  # unit L2 norm
    pooled: Float[np.ndarray, "n f"]  # what the head sees
    labels: Int[np.ndarray, "runs n_train"]  # clusters


class IdtOutputs(NamedTuple):
    """The prior: Fisher vectors of n videos in the order of the manifest.

    A training video without a vector is a cluster of its own.
    """

    vectors: Float[np.ndarray, "n d"]  # unit L2 norm, 0 where there is none
    has_vector: Bool[np.ndarray, " n"]
    labels: Int[np.ndarray, "runs n_train"]  # clusters
