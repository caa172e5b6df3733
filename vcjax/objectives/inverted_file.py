"""Approximate neighbor search in the nearest K-means cells, at a cost independent of the bank.

An inverted file (Jegou, Douze, Schmid 2011) that probes a fixed number of rows instead of a fixed
number of cells: cells are read in the order of their distance until enough rows are collected. Each
device searches its own rows.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from vcjax.clustering.kmeans import UNLABELLED
from vcjax.objectives import top_k
from vcjax.runtime import sharding


class InvertedFile(NamedTuple):
    """Inverted file of the bank: a K-means clustering and the rows of each device by cell."""

    centroids: Float[Array, "k d"]
    labels: Int[Array, " rows"]  # cell of each row; a row without a cell has a label outside 0..k-1
    order: Int[Array, " rows"]  # rows of each device (local) by cell, rows without a cell last
    ends: Int[Array, "devices k"]  # end of each cell in `order`


# partition of each field over the mesh
SPECS: Any = InvertedFile._make((P(), P(sharding.AXIS), P(sharding.AXIS), P(sharding.AXIS)))


def empty(count: int, bank: Float[Array, "rows d"], mesh: jax.sharding.Mesh) -> InvertedFile:
    """Return `count` cells without rows, with the shapes and sharding of `make`'s result."""
    cells = InvertedFile(
        jnp.zeros((count, bank.shape[1])),
        jnp.full(len(bank), UNLABELLED),
        jnp.zeros(len(bank), jnp.int32),
        jnp.zeros((mesh.size, count), jnp.int32),
    )
    places: Any = InvertedFile._make(jax.sharding.NamedSharding(mesh, p) for p in SPECS)
    return jax.device_put(cells, places)


@functools.partial(jax.jit, static_argnums=2)
def make(
    centroids: Float[Array, "k d"], labels: Int[Array, " rows"], mesh: jax.sharding.Mesh
) -> InvertedFile:
    """Return the inverted file of a clustering, laid out for the devices of `mesh`."""
    count = centroids.shape[0]

    def on_device(labels: Array) -> tuple[Array, Array]:
        cells = jnp.where((labels >= 0) & (labels < count), labels, count)
        sizes = jnp.bincount(cells, length=count + 1)[:-1]
        return jnp.argsort(cells).astype(jnp.int32), jnp.cumsum(sizes, dtype=jnp.int32)[None]

    by_rows = P(sharding.AXIS)
    order, ends = jax.shard_map(on_device, mesh=mesh, in_specs=by_rows, out_specs=by_rows)(labels)
    return InvertedFile(centroids, labels, order, ends)


def probe(
    embedding: Float[Array, "b d"], cells: InvertedFile, count: int
) -> tuple[Int[Array, "b count"], Bool[Array, "b count"]]:
    """Return `count` local rows of the cells nearest to each clip, and which entries are valid.

    `cells` is this device's part. Entries are invalid where its cells hold fewer than `count` rows.
    """
    ends = cells.ends[0]
    sizes = jnp.diff(ends, prepend=0)
    closeness = jnp.matmul(embedding, cells.centroids.T, precision="highest")
    # Nearest by Euclidean distance, as K-means assigns rows to cells.
    closeness -= 0.5 * jnp.square(cells.centroids).sum(axis=1)[None]
    nearest = jnp.argsort(-closeness, axis=1)
    filled = jnp.cumsum(sizes[nearest], axis=1)
    places = jnp.arange(count, dtype=jnp.int32)

    def rows_of_clip(nearest: Array, filled: Array) -> tuple[Array, Array]:
        # Number of cells exhausted before each place; searchsorted is slower on CPUs.
        steps = jnp.zeros(count, jnp.int32).at[filled].add(1, mode="drop")
        rank = jnp.minimum(jnp.cumsum(steps), len(nearest) - 1)
        rows = cells.order[ends[nearest[rank]] - (filled[rank] - places)]
        return rows, places < filled[-1]

    return jax.vmap(rows_of_clip)(nearest, filled)


def recall(
    bank: Float[Array, "rows d"],
    cells: InvertedFile,
    *,
    num_rows: int,
    num_background: int,
    num_candidates: int,
    mesh: jax.sharding.Mesh,
    num_queries: int = 64,
) -> float:
    """Return the fraction of exact background neighbors that `probe` also returns.

    Args:
      bank: Memory bank, split over `mesh` by rows.
      cells: Inverted file of the bank.
      num_rows: Number of rows of the bank that are videos; the rest is padding.
      num_background: Number of exact neighbors per query.
      num_candidates: Number of rows probed per query, over all devices.
      mesh: Devices over which the bank is split.
      num_queries: Number of queries, taken from the bank at even spacing.
    """
    queries = bank[np.linspace(0, num_rows - 1, min(num_rows, num_queries)).astype(int)]
    options = (num_rows, num_background, -(-num_candidates // mesh.size), mesh)
    return float(_recall(queries, bank, cells, *options))


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _recall(
    queries: Float[Array, "b d"],
    bank: Float[Array, "rows d"],
    cells: InvertedFile,
    num_rows: int,
    num_background: int,
    count: int,
    mesh: jax.sharding.Mesh,
) -> Float[Array, ""]:
    def on_device(queries: Array, bank: Array, cells: InvertedFile) -> Array:
        place = jax.lax.axis_index(sharding.AXIS) * len(bank) + jnp.arange(len(bank))
        similarity = jnp.matmul(queries, bank.T, precision="highest")
        similarity = jnp.where((place < num_rows)[None], similarity, -jnp.inf)
        bound = top_k.kth_largest(similarity, num_background, axis=sharding.AXIS)
        background = similarity >= bound[:, None]
        rows, valid = probe(queries, cells, min(count, len(bank)))
        hits = (jnp.take_along_axis(background, rows, axis=1) & valid).sum()
        num_hits, total = jax.lax.psum((hits, background.sum()), sharding.AXIS)
        return num_hits / total

    return jax.shard_map(
        on_device, mesh=mesh, in_specs=(P(), P(sharding.AXIS), SPECS), out_specs=P()
    )(queries, bank, cells)
