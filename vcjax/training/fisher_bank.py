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
    has_vector, dim = vectors.has_vector, bank.shape[1]
    pca = fisher.PCA(explained_variance=1.0).fit(vectors.vectors[has_vector])
    pca.components_ = pca.components_[:dim]
    rows = np.zeros((len(has_vector), dim), np.float32)
    rows[has_vector, : len(pca.components_)] = pca.transform(vectors.vectors[has_vector])
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    filled = norm[:, 0] > 0
    unit = sharding.shard_rows(rows / np.where(norm > 0, norm, 1), devices)
    return _where(sharding.shard_rows(filled[:, None], devices), unit, bank)


@jax.jit
def _where(
    filled: Array, rows: Float[Array, "rows d"], bank: Float[Array, "rows d"]
) -> Float[Array, "rows d"]:
    return jnp.where(filled, rows.astype(bank.dtype), bank)
