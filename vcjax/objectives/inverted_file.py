"""Neighbors sought in the nearest K-means cells alone: their cost no longer grows with the bank.

As in an inverted file (Jegou, Douze, Schmid 2011), but of a fixed number of rows instead of cells:
those of the nearest cells, until the number is reached. Each device seeks among its own rows.
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


class Cells(NamedTuple):
    """A K-means of the bank, and the rows of each device in the order of their cells."""

    centroids: Float[Array, "k d"]
    labels: Int[Array, " rows"]  # the cell of each row; those with none of the k have no cell
    order: Int[Array, " rows"]  # numbers of rows on their device; those without a cell come last
    ends: Int[Array, "devices k"]  # where each cell ends in the order


# how they lie on a mesh
SPECS: Any = Cells._make((P(), P(sharding.AXIS), P(sharding.AXIS), P(sharding.AXIS)))


def empty(count: int, bank: Float[Array, "rows d"], mesh: jax.sharding.Mesh) -> Cells:
    """`count` cells without rows, of the shapes of any others."""
    cells = Cells(
        jnp.zeros((count, bank.shape[1])),
        jnp.full(len(bank), UNLABELLED),
        jnp.zeros(len(bank), jnp.int32),
        jnp.zeros((mesh.size, count), jnp.int32),
    )
    places: Any = Cells._make(jax.sharding.NamedSharding(mesh, p) for p in SPECS)
    return jax.device_put(cells, places)


@functools.partial(jax.jit, static_argnums=2)
def make(
    centroids: Float[Array, "k d"], labels: Int[Array, " rows"], mesh: jax.sharding.Mesh
) -> Cells:
    """Cells from a clustering, laid out for the devices of `mesh`."""
    count = centroids.shape[0]

    def on_device(labels: Array) -> tuple[Array, Array]:
        cells = jnp.where((labels >= 0) & (labels < count), labels, count)
        sizes = jnp.bincount(cells, length=count + 1)[:-1]
        return jnp.argsort(cells).astype(jnp.int32), jnp.cumsum(sizes, dtype=jnp.int32)[None]

    by_rows = P(sharding.AXIS)
    order, ends = jax.shard_map(on_device, mesh=mesh, in_specs=by_rows, out_specs=by_rows)(labels)
    return Cells(centroids, labels, order, ends)


def candidates(
    embedding: Float[Array, "b d"], cells: Cells, count: int
) -> tuple[Int[Array, "b count"], Bool[Array, "b count"]]:
    """`count` rows of this device's part of `cells`, for each clip, and which of them there are."""
    ends = cells.ends[0]
    sizes = jnp.diff(ends, prepend=0)
    closeness = jnp.matmul(embedding, cells.centroids.T, precision="highest")
    # the nearest by Euclidean distance, as K-means assigns them
    closeness -= 0.5 * jnp.square(cells.centroids).sum(axis=1)[None]
    nearest = jnp.argsort(-closeness, axis=1)
    filled = jnp.cumsum(sizes[nearest], axis=1)
    places = jnp.arange(count, dtype=jnp.int32)

    def one(nearest: Array, filled: Array) -> tuple[Array, Array]:
        # how many cells are full before each place; a sorted search is slower on CPUs
        steps = jnp.zeros(count, jnp.int32).at[filled].add(1, mode="drop")
        rank = jnp.minimum(jnp.cumsum(steps), len(nearest) - 1)
        rows = cells.order[ends[nearest[rank]] - (filled[rank] - places)]
        return rows, places < filled[-1]

    return jax.vmap(one)(nearest, filled)


def recall(
    bank: Float[Array, "rows d"],
    cells: Cells,
    *,
    num_rows: int,
    num_background: int,
    num_candidates: int,
    mesh: jax.sharding.Mesh,
    num_queries: int = 64,
) -> float:
    """Share of the rows most similar to a row that are candidates, over evenly spaced rows."""
    queries = bank[np.linspace(0, num_rows - 1, min(num_rows, num_queries)).astype(int)]
    options = (num_rows, num_background, -(-num_candidates // mesh.size), mesh)
    return float(_recall(queries, bank, cells, *options))


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _recall(
    queries: Float[Array, "b d"],
    bank: Float[Array, "rows d"],
    cells: Cells,
    num_rows: int,
    num_background: int,
    count: int,
    mesh: jax.sharding.Mesh,
) -> Float[Array, ""]:
    def on_device(queries: Array, bank: Array, cells: Cells) -> Array:
        place = jax.lax.axis_index(sharding.AXIS) * len(bank) + jnp.arange(len(bank))
        similarity = jnp.matmul(queries, bank.T, precision="highest")
        similarity = jnp.where((place < num_rows)[None], similarity, -jnp.inf)
        bound = top_k.selecting(similarity, num_background, axis=sharding.AXIS)
        wanted = similarity >= bound[:, None]
        rows, there = candidates(queries, cells, min(count, len(bank)))
        found = (jnp.take_along_axis(wanted, rows, axis=1) & there).sum()
        found, wanted = jax.lax.psum((found, wanted.sum()), sharding.AXIS)
        return found / wanted

    return jax.shard_map(
        on_device, mesh=mesh, in_specs=(P(), P(sharding.AXIS), SPECS), out_specs=P()
    )(queries, bank, cells)
