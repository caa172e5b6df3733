"""Exact nearest neighbors by cosine similarity, with queries processed in tiles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vcjax.runtime import checks

_MAX_BYTES = 128 << 20  # of the similarities of a tile; 1024 queries reach it at 32,768 rows


@checks.arguments
def nearest(
    queries: Float[Array | np.ndarray, "q d"],
    rows: Float[Array | np.ndarray, "n d"],
    *,
    num_neighbors: int = 1,
    tile: int = 1024,
) -> Int[np.ndarray, "q k"]:
    """Return the indices of the rows most similar to each query, the nearest first.

    Ties are broken by the lower index.

    Args:
      queries: Queries, unit L2 norm.
      rows: Rows to search, unit L2 norm.
      num_neighbors: Number k of neighbors per query.
      tile: Number of queries whose similarities to all rows are held at once; fewer if the
        similarities would take more than 128 MiB.

    Raises:
      ValueError: if shapes do not match, or if there are fewer rows than neighbors.
    """
    checks.count("num_neighbors", num_neighbors)
    checks.count("tile", tile)
    if num_neighbors > len(rows):
        raise ValueError(f"num_neighbors is {num_neighbors}, but there are {len(rows)} rows")
    tile = max(1, min(tile, _MAX_BYTES // (4 * len(rows))))
    rows = jnp.asarray(rows)
    tiles = [
        np.asarray(_nearest(jnp.asarray(queries[start : start + tile]), rows, num_neighbors))
        for start in range(0, len(queries), tile)
    ]
    return np.concatenate(tiles) if tiles else np.zeros((0, num_neighbors), np.int32)


@functools.partial(jax.jit, static_argnums=2)
def _nearest(queries: Array, rows: Array, num_neighbors: int) -> Array:
    similarity = jnp.matmul(queries, rows.T, precision="highest")
    return jax.lax.top_k(similarity, num_neighbors)[1]
