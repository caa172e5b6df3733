"""K-means by Lloyd's iterations, rows split over the devices, distances in tiles.

First centroids are rows drawn by the seed alone. A cluster that runs empty takes half of the
largest one, as in faiss. Products are in full float32: labels must not depend on the platform more
than they have to, and at bfloat16 precision near centroids swap their points.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from vcjax.runtime import sharding

UNLABELLED = -1
_TILE = 1024  # rows whose distances to all centroids are held at once, little enough for caches
_APART = 1 / 1024  # relative distance between the halves of a split cluster, as in faiss

Points = Float[Array | np.ndarray, "n d"]


class KMeans(NamedTuple):
    """A clustering: `inertia` is the sum of squared distances before each iteration's update.

    As many labels as there are points, and padding of `UNLABELLED` to a multiple of the devices.
    """

    labels: Int[Array, " rows"]
    centroids: Float[Array, "k d"]
    inertia: Float[Array, " iterations"]
    sizes: Float[Array, " k"]


def fit(
    points: Points | Sequence[Points],
    *,
    num_clusters: int,
    num_iterations: int = 20,
    seed: int,
    known: Bool[np.ndarray, " n"] | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> KMeans:
    """Clusters `points`, one array or several that are sides of one: these are never joined whole.

    Rows that are not `known`, and those beyond it, take no part; each of the former is a cluster of
    its own, from `num_clusters` on. Arrays that lie on `mesh` by rows stay there; of others each
    process sends its devices their part. Raises ValueError for fewer points than clusters.
    """
    mesh = mesh or sharding.make(1)
    sides = list(points) if isinstance(points, Sequence) else [points]
    known = np.ones(min(len(side) for side in sides), bool) if known is None else known
    candidates = np.flatnonzero(known)
    if len(candidates) < num_clusters:
        raise ValueError(f"{num_clusters} clusters of {len(candidates)} points")
    first = np.random.default_rng(seed).permutation(candidates)[:num_clusters]
    on_devices = tuple(sharding.put_rows(side, mesh) for side in sides)
    counts = sharding.put_rows(known, mesh)
    centroids = jax.jit(_rows_of, out_shardings=sharding.replicated(mesh))(on_devices, first)
    return KMeans(*_lloyd(on_devices, counts, centroids, len(known), num_iterations, mesh))


class Runs(NamedTuple):
    """Several clusterings of the same points."""

    labels: Int[Array, "runs rows"]
    centroids: Float[Array, "runs k d"]
    inertia: Float[Array, "runs iterations"]
    sizes: Float[Array, "runs k"]


def fit_runs(
    points: Points | Sequence[Points],
    *,
    seeds: Sequence[int],
    mesh: jax.sharding.Mesh | None = None,
    **options: Any,
) -> Runs:
    """One clustering a seed, as `fit` with these options makes it."""
    mesh = mesh or sharding.make(1)
    runs = [fit(points, seed=seed, mesh=mesh, **options) for seed in seeds]
    labels = jax.jit(lambda *rows: jnp.stack(rows), out_shardings=sharding.columns(mesh))(
        *(run.labels for run in runs)
    )
    return Runs(labels, *(jnp.stack([run[i] for run in runs]) for i in (1, 2, 3)))


def assign(
    points: Float[Array, "n d"], centroids: Float[Array, "k d"]
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """The nearest centroid of each point, the first of equals, and its squared distance."""
    product = jnp.matmul(points, centroids.T, precision="highest")
    closeness = product - 0.5 * jnp.square(centroids).sum(axis=1)[None, :]
    best = closeness.max(axis=1, keepdims=True)
    columns = jnp.arange(centroids.shape[0], dtype=jnp.int32)
    # not argmax: on CPUs it is several times slower
    labels = jnp.where(closeness >= best, columns[None, :], centroids.shape[0]).min(axis=1)
    distance = jnp.square(points).sum(axis=1) - 2 * best[:, 0]
    return labels, jnp.maximum(distance, 0.0)


def update(sums: Float[Array, "k d"], sizes: Float[Array, " k"]) -> Float[Array, "k d"]:
    """Means of the clusters from the sums of their points; empty ones take half of the largest."""
    centroids = sums / jnp.maximum(sizes, 1.0)[:, None]
    tilt = jnp.where(jnp.arange(sums.shape[1]) % 2 == 0, _APART, -_APART)

    def split(state: tuple[Array, Array]) -> tuple[Array, Array]:
        centroids, sizes = state
        empty, large = jnp.argmin(sizes), jnp.argmax(sizes)
        half = jnp.floor(sizes[large] / 2)
        center = centroids[large]
        centroids = centroids.at[empty].set(center * (1 + tilt))
        centroids = centroids.at[large].set(center * (1 - tilt))
        return centroids, sizes.at[empty].set(half).at[large].add(-half)

    return jax.lax.while_loop(lambda state: state[1].min() < 1, split, (centroids, sizes))[0]


def _rows_of(sides: tuple[Array, ...], index: Int[Array, " k"]) -> Float[Array, "k d"]:
    return jnp.concatenate([side[index].astype(jnp.float32) for side in sides], axis=1)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _lloyd(
    sides: tuple[Array, ...],
    counts: Bool[Array, " rows"],
    centroids: Float[Array, "k d"],
    num_points: int,
    num_iterations: int,
    mesh: jax.sharding.Mesh,
) -> tuple[Array, ...]:
    num_clusters = centroids.shape[0]

    def on_device(sides: tuple, counts: Array, centroids: Array) -> tuple[Array, ...]:
        num_rows = counts.shape[0]
        tile = min(_TILE, num_rows)
        begins = jnp.arange(0, num_rows, tile, dtype=jnp.int32)

        def one_tile(total: tuple, begin: Array) -> tuple[tuple, Array]:
            start = jnp.minimum(begin, num_rows - tile)  # the last tile overlaps the one before
            parts = [jax.lax.dynamic_slice_in_dim(x, start, tile) for x in (*sides, counts)]
            points = jnp.concatenate([x.astype(jnp.float32) for x in parts[:-1]], axis=1)
            counted = parts[-1] & (start + jnp.arange(tile, dtype=jnp.int32) >= begin)
            labels, distance = assign(points, centroids)
            bins = jnp.where(counted, labels, num_clusters)  # what does not count: one bin more
            sums = jax.ops.segment_sum(points, bins, num_clusters + 1)[:-1]
            sizes = jax.ops.segment_sum(counted.astype(jnp.float32), bins, num_clusters + 1)[:-1]
            inertia = jnp.sum(distance, where=counted)
            return jax.tree.map(jnp.add, total, (sums, sizes, inertia)), labels

        zero = (jnp.zeros_like(centroids), jnp.zeros(num_clusters), jnp.zeros(()))
        zero = jax.lax.pcast(zero, sharding.AXIS, to="varying")
        total, labels = jax.lax.scan(one_tile, zero, begins)
        last = labels[-1, len(begins) * tile - num_rows :]
        labels = jnp.concatenate([labels[:-1].reshape(-1), last])
        return *jax.lax.psum(total, sharding.AXIS), labels

    pass_over = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(P(sharding.AXIS), P(sharding.AXIS), P()),
        out_specs=(P(), P(), P(), P(sharding.AXIS)),
    )

    def iteration(centroids: Array, _: Any) -> tuple[Array, Array]:
        sums, sizes, inertia, _ = pass_over(sides, counts, centroids)
        return update(sums, sizes), inertia

    centroids, inertia = jax.lax.scan(iteration, centroids, length=num_iterations)
    _, sizes, _, labels = pass_over(sides, counts, centroids)
    rows = jnp.arange(len(labels), dtype=jnp.int32)
    labels = jnp.where(
        counts, labels, jnp.where(rows < num_points, num_clusters + rows, UNLABELLED)
    )
    return labels, centroids, inertia, sizes
