"""Exact nearest neighbors by cosine, queries in tiles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def nearest(
    queries: Float[Array | np.ndarray, "q d"],
    rows: Float[Array | np.ndarray, "n d"],
    *,
    num_neighbors: int = 1,
    tile: int = 1024,
) -> Int[np.ndarray, "q k"]:
    """Indices of the `num_neighbors` unit rows most similar to each query, the nearest first.

    Of equal ones the first comes first.
    """
    rows = jnp.asarray(rows)
    found = [
        np.asarray(_nearest(jnp.asarray(queries[start : start + tile]), rows, num_neighbors))
        for start in range(0, len(queries), tile)
    ]
    return np.concatenate(found) if found else np.zeros((0, num_neighbors), np.int32)


@functools.partial(jax.jit, static_argnums=2)
def _nearest(queries: Array, rows: Array, num_neighbors: int) -> Array:
    similarity = jnp.matmul(queries, rows.T, precision="highest")
    return jax.lax.top_k(similarity, num_neighbors)[1]
