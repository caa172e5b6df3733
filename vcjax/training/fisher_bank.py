"""A memory bank of Fisher vectors, in place of the running means of the embeddings.

The network then learns to map a clip to the fixed Fisher vector of its video and of the other
videos of its clusters, which do not move while it learns.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import fisher
from fisher.vectors import FisherVectors
from vcjax.runtime import sharding

_PART_ROWS = 16384  # vectors that are copied at a time: 131 MB of the paper's 2000 values


def fill(
    bank: Float[Array, "rows d"], vectors: FisherVectors, devices: jax.sharding.Mesh
) -> Float[Array, "rows d"]:
    """Return `bank` with the projected Fisher vectors of the videos as its rows.

    The centered vectors are projected to the d principal components of largest variance, and then
    scaled to unit norm. A video without a vector keeps its row.

    Args:
      bank: Memory bank, split over the devices by rows.
      vectors: Fisher vectors of the videos, by row of the bank.
      devices: Devices of the bank.

    Raises:
      ValueError: if all vectors are equal.
    """
    dim, with_vector = bank.shape[1], np.flatnonzero(vectors.has_vector)
    parts = np.array_split(with_vector, -(-len(with_vector) // _PART_ROWS))
    pca = fisher.PCA(explained_variance=1.0).fit(lambda: (vectors.vectors[part] for part in parts))
    rows = np.zeros((len(vectors.has_vector), dim), np.float32)
    for part in parts:
        coordinates = np.asarray(pca.transform(vectors.vectors[part]))[:, :dim]
        rows[part, : coordinates.shape[1]] = coordinates
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    filled = norm[:, 0] > 0
    unit = sharding.shard_rows(rows / np.where(norm > 0, norm, 1), devices)
    return _where(sharding.shard_rows(filled[:, None], devices), unit, bank)


@jax.jit
def _where(
    filled: Array, rows: Float[Array, "rows d"], bank: Float[Array, "rows d"]
) -> Float[Array, "rows d"]:
    return jnp.where(filled, rows.astype(bank.dtype), bank)
