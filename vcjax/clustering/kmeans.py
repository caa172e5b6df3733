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

from vcjax import mesh as meshes

_TILE = 1024  # rows whose distances to all centroids are held at once, little enough for caches
_APART = 1 / 1024  # relative distance between the halves of a split cluster, as in faiss


class KMeans(NamedTuple):
    """A clustering: `inertia` is the sum of squared distances before each iteration's update."""

    labels: Int[Array, " n"]
    centroids: Float[Array, "k d"]
    inertia: Float[Array, " iterations"]


def fit(
    points: Float[Array | np.ndarray, "n d"],
    *,
    num_clusters: int,
    num_iterations: int = 20,
    seed: int,
    mesh: jax.sharding.Mesh | None = None,
) -> KMeans:
    """Clusters `points`. Raises ValueError for fewer points than clusters."""
    num_points = points.shape[0]
    if num_points < num_clusters:
        raise ValueError(f"{num_clusters} clusters of {num_points} points")
    mesh = mesh or meshes.make(1)
    first = np.random.default_rng(seed).permutation(num_points)[:num_clusters]
    rows = num_points / mesh.shape[meshes.AXIS]
    tile = min(_TILE, max(8, int(np.ceil(rows))))
    padding = -num_points % (tile * mesh.shape[meshes.AXIS])
    padded = jnp.pad(jnp.asarray(points, jnp.float32), ((0, padding), (0, 0)))
    padded = jax.device_put(padded, meshes.rows(mesh))
    counts = jax.device_put(jnp.arange(num_points + padding) < num_points, meshes.rows(mesh))
    labels, centroids, inertia = _lloyd(
        padded, counts, jnp.asarray(points[first], jnp.float32), num_iterations, tile, mesh
    )
    return KMeans(labels[:num_points], centroids, inertia)


def fit_runs(
    points: Float[Array | np.ndarray, "n d"],
    *,
    seeds: Sequence[int],
    num_clusters: int,
    num_iterations: int = 20,
    known: Bool[np.ndarray, " n"] | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Int[np.ndarray, "runs n"]:
    """Labels of one clustering a seed.

    Rows that are not `known` take no part; each is a cluster of its own, from `num_clusters` on.
    """
    rows = np.arange(points.shape[0]) if known is None else np.flatnonzero(known)
    taken = points if known is None else points[rows]
    labels = np.arange(points.shape[0], dtype=np.int32)[None].repeat(len(seeds), 0) + num_clusters
    for run, seed in enumerate(seeds):
        labels[run, rows] = fit(
            taken, num_clusters=num_clusters, num_iterations=num_iterations, seed=seed, mesh=mesh
        ).labels
    return labels


def joint_space(
    embedding: Float[Array, "n d"], fisher_vectors: Float[np.ndarray, "n f"], *, weight: float = 1.0
) -> Float[Array, "n df"]:
    """Network and IDT side by side (Sec. 3.3), Fisher vectors times `weight`."""
    return jnp.concatenate([embedding, weight * jnp.asarray(fisher_vectors)], axis=1)


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


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _lloyd(
    points: Float[Array, "n d"],
    counts: Bool[Array, " n"],
    centroids: Float[Array, "k d"],
    num_iterations: int,
    tile: int,
    mesh: jax.sharding.Mesh,
) -> tuple[Array, Array, Array]:
    num_clusters = centroids.shape[0]

    def on_device(points: Array, counts: Array, centroids: Array) -> tuple[Array, ...]:
        def one_tile(total: tuple, rows: tuple) -> tuple[tuple, Array]:
            points, counts = rows
            labels, distance = assign(points, centroids)
            bins = jnp.where(counts, labels, num_clusters)  # padding: one bin more
            sums = jax.ops.segment_sum(points, bins, num_clusters + 1)[:-1]
            sizes = jax.ops.segment_sum(counts.astype(jnp.float32), bins, num_clusters + 1)[:-1]
            inertia = jnp.sum(distance, where=counts)
            return jax.tree.map(jnp.add, total, (sums, sizes, inertia)), labels

        tiles = (points.reshape(-1, tile, points.shape[1]), counts.reshape(-1, tile))
        zero = (jnp.zeros_like(centroids), jnp.zeros(num_clusters), jnp.zeros(()))
        zero = jax.lax.pcast(zero, meshes.AXIS, to="varying")
        total, labels = jax.lax.scan(one_tile, zero, tiles)
        return *jax.lax.psum(total, meshes.AXIS), labels.reshape(-1)

    pass_over = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(P(meshes.AXIS), P(meshes.AXIS), P()),
        out_specs=(P(), P(), P(), P(meshes.AXIS)),
    )

    def iteration(centroids: Array, _: Any) -> tuple[Array, Array]:
        sums, sizes, inertia, _ = pass_over(points, counts, centroids)
        return update(sums, sizes), inertia

    centroids, inertia = jax.lax.scan(iteration, centroids, length=num_iterations)
    return pass_over(points, counts, centroids)[3], centroids, inertia
