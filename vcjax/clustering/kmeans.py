"""K-means by Lloyd's algorithm, with points split over the devices and distances taken in tiles.

Initial centroids are points drawn at random, by the seed alone. An empty cluster takes half of the
largest cluster, as in faiss. Matrix products use full float32 precision: labels should depend on
the platform as little as possible, and in bfloat16 neighboring centroids exchange points. Points
are taken relative to the mean of the initial centroids, since far from the origin distances cancel.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from vcjax.runtime import checks, sharding

UNLABELLED = -1
# Rows whose distances to all centroids are held at once: few enough for the caches of a CPU; on
# accelerators as many as keep the number of kernels low.
_TILE = {"cpu": 1024}
_ACCELERATOR_TILE = 8192
_APART = 1 / 1024  # relative shift of either half of a split cluster, as in faiss

Points = Float[Array | np.ndarray, "n d"]


class KMeans(NamedTuple):
    """Result of K-means.

    `labels` is padded with `UNLABELLED` to a multiple of the number of devices. `inertia` is the
    sum of squared distances to the nearest centroid before the update of each iteration.
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
    included: Bool[np.ndarray, " n"] | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> KMeans:
    """Cluster `points` by K-means.

    Args:
      points: An array, or several arrays with the same rows that are clustered as if concatenated
        along the second axis; the concatenation is never stored. Arrays that are split over `mesh`
        by rows stay on their devices; of other arrays, each process sends its devices their rows.
      num_clusters: Number of clusters.
      num_iterations: Number of Lloyd iterations.
      seed: Seed of the initial centroids.
      included: Rows to cluster; all rows if None. Each other row becomes a cluster of its own, with
        a label of `num_clusters` or above. Rows beyond the mask are padding and stay `UNLABELLED`.
      mesh: Devices to split the points over; a single device if None.

    Raises:
      ValueError: if there are fewer points than clusters, if arrays differ in their rows, or if a
        point has a value that is not finite.
    """
    checks.argument("mesh", mesh, jax.sharding.Mesh | None)
    checks.argument("seed", seed, int)
    mesh = mesh or sharding.make(1)
    sides = list(points) if isinstance(points, Sequence) else [points]
    checks.count("num_clusters", num_clusters)
    checks.count("num_iterations", num_iterations, minimum=0)
    included = _check_points(sides, included, mesh)
    candidates = np.flatnonzero(included)
    if len(candidates) < num_clusters:
        raise ValueError(
            f"cannot form {num_clusters} clusters from {len(candidates)} points; "
            "use at most as many clusters as points"
        )
    first = np.random.default_rng(seed).permutation(candidates)[:num_clusters]
    on_devices = tuple(sharding.shard_rows(side, mesh) for side in sides)
    counts = sharding.shard_rows(included, mesh)
    if (bad := int(_first_not_finite(on_devices, counts))) >= 0:
        raise ValueError(f"point {bad} has a value that is not finite; remove such points")
    centroids = jax.jit(_rows_of, out_shardings=sharding.replicated(mesh))(on_devices, first)
    return KMeans(*lloyd(on_devices, counts, centroids, len(included), num_iterations, mesh))


def _check_points(
    sides: Sequence[Points], included: Bool[np.ndarray, " n"] | None, mesh: jax.sharding.Mesh
) -> Bool[np.ndarray, " n"]:
    """Return the mask of the rows to cluster after a check of the shapes.

    Arrays may differ by rows of padding up to a multiple of the number of devices.
    """
    if not sides:
        raise ValueError("points is empty; pass at least one array [n, d]")
    for side in sides:
        checks.array("points", side, "n d")
        if not side.shape[1]:
            raise ValueError(f"points has no values: its shape is [{len(side)}, 0]")
    if included is None:
        included = np.ones(min(len(side) for side in sides), bool)
    checks.array("included", included, "n", kind="booleans")
    lengths = [len(included), *(len(side) for side in sides)]
    if len({-(-length // mesh.size) for length in lengths}) > 1:
        raise ValueError(
            f"the arrays of points have {', '.join(map(str, lengths[1:]))} rows and the mask "
            f"{lengths[0]}; use the same rows in each"
        )
    return np.asarray(included, bool)


@jax.jit
def _first_not_finite(sides: tuple[Array, ...], counts: Bool[Array, " rows"]) -> Int[Array, ""]:
    """Return the first counted row with a value that is not finite, or -1."""
    # The largest magnitude is NaN or infinite if any value is. `isfinite(side).all(axis=1)` would
    # store a truth value per element on CPUs, a quarter of the points.
    finite = jnp.stack([jnp.isfinite(jnp.abs(side).max(axis=1)) for side in sides]).all(axis=0)
    bad = counts & ~finite
    return jnp.where(bad.any(), jnp.argmax(bad), -1)


class Runs(NamedTuple):
    """Results of several runs of K-means on the same points."""

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
    """Run `fit` with `options` once per seed and return the stacked results."""
    checks.argument("seeds", seeds, Sequence[int])
    if not len(seeds):
        raise ValueError("seeds is empty; pass one seed per run")
    mesh = mesh or sharding.make(1)
    runs = [fit(points, seed=seed, mesh=mesh, **options) for seed in seeds]
    labels = jax.jit(lambda *rows: jnp.stack(rows), out_shardings=sharding.columns(mesh))(
        *(run.labels for run in runs)
    )
    return Runs(labels, *(jnp.stack([run[i] for run in runs]) for i in (1, 2, 3)))


def distances(
    points: Points | Sequence[Points], labels: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Return the Euclidean distance of each point to the mean of the points with its label.

    Args:
      points: An array, or several arrays as if concatenated along the second axis.
      labels: Cluster of each point. Rows of `points` beyond them are padding.
    """
    order = np.argsort(labels, kind="stable")
    clusters = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    squared = np.zeros(len(labels))
    for side in points if isinstance(points, Sequence) else [points]:
        rows = np.asarray(side, np.float32)
        for members in clusters:
            offsets = rows[members]  # a copy, changed in place: a cluster may have all points
            offsets -= offsets.mean(axis=0)
            squared[members] += np.square(offsets, out=offsets).sum(axis=1)
    return np.sqrt(squared)


@checks.arguments
def assign(
    points: Float[Array, "n d"], centroids: Float[Array, "k d"]
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """Return the index of the nearest centroid of each point, and its squared Euclidean distance.

    Ties are broken by the lower index.

    Raises:
      ValueError: if there are no centroids, or if points and centroids differ in dimension.
    """
    if not len(centroids):
        raise ValueError("centroids is empty; pass at least one")
    center = centroids.mean(axis=0)[None]
    return _assign(jnp.asarray(points) - center, centroids - center)


def _assign(
    points: Float[Array, "n d"], centroids: Float[Array, "k d"]
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """Return labels and distances as `assign`, for centroids about the origin."""
    product = jnp.matmul(points, centroids.T, precision="highest")
    closeness = product - 0.5 * jnp.square(centroids).sum(axis=1)[None, :]
    labels, best = jax.lax.platform_dependent(closeness, cpu=_argmax_by_comparison, default=_argmax)
    distance = jnp.square(points).sum(axis=1) - 2 * best
    return labels, jnp.maximum(distance, 0.0)


def _argmax(values: Float[Array, "n k"]) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """Return the index of the largest value of each row, the lowest of several, and the value."""
    return jax.lax.argmax(values, 1, jnp.int32), values.max(axis=1)


def _argmax_by_comparison(
    values: Float[Array, "n k"],
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """Return the same as `_argmax`, several times faster on CPUs."""
    best = values.max(axis=1, keepdims=True)
    columns = jnp.arange(values.shape[1], dtype=jnp.int32)
    return jnp.where(values >= best, columns[None, :], values.shape[1]).min(axis=1), best[:, 0]


@checks.arguments
def update(sums: Float[Array, "k d"], sizes: Float[Array, " k"]) -> Float[Array, "k d"]:
    """Return the mean of each cluster, given the sum and the number of its points.

    An empty cluster takes half of the largest cluster: both centroids are moved apart slightly from
    the mean of the largest cluster.
    """
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
def lloyd(
    sides: tuple[Array, ...],
    counts: Bool[Array, " rows"],
    centroids: Float[Array, "k d"],
    num_points: int,
    num_iterations: int,
    mesh: jax.sharding.Mesh,
) -> tuple[Array, Array, Array, Array]:
    """Return the fields of `KMeans` after Lloyd iterations on the devices, from `centroids`.

    Args:
      sides: Arrays [rows, d_i] that are clustered as if concatenated along the second axis.
      counts: Rows to cluster.
      centroids: Initial centroids.
      num_points: Number of rows that are not padding.
      num_iterations: Number of iterations.
      mesh: Devices over which the rows are split.
    """
    num_clusters = centroids.shape[0]
    center = centroids.mean(axis=0)
    centroids -= center[None]

    def on_device(
        sides: tuple, counts: Array, centroids: Array, center: Array
    ) -> tuple[Array, ...]:
        num_rows = counts.shape[0]
        platform = mesh.devices.flat[0].platform
        tile = min(_TILE.get(platform, _ACCELERATOR_TILE), num_rows)
        begins = jnp.arange(0, num_rows, tile, dtype=jnp.int32)

        def one_tile(total: tuple, begin: Array) -> tuple[tuple, Array]:
            start = jnp.minimum(begin, num_rows - tile)  # the last tile overlaps the previous one
            parts = [jax.lax.dynamic_slice_in_dim(x, start, tile) for x in (*sides, counts)]
            points = jnp.concatenate([x.astype(jnp.float32) for x in parts[:-1]], axis=1)
            points -= center[None]
            counted = parts[-1] & (start + jnp.arange(tile, dtype=jnp.int32) >= begin)
            labels, distance = _assign(points, centroids)
            bins = jnp.where(counted, labels, num_clusters)  # an extra bin for rows to ignore
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
        in_specs=(P(sharding.AXIS), P(sharding.AXIS), P(), P()),
        out_specs=(P(), P(), P(), P(sharding.AXIS)),
    )

    def iteration(centroids: Array, _: Any) -> tuple[Array, Array]:
        sums, sizes, inertia, _ = pass_over(sides, counts, centroids, center)
        return update(sums, sizes), inertia

    centroids, inertia = jax.lax.scan(iteration, centroids, length=num_iterations)
    _, sizes, _, labels = pass_over(sides, counts, centroids, center)
    rows = jnp.arange(len(labels), dtype=jnp.int32)
    labels = jnp.where(
        counts, labels, jnp.where(rows < num_points, num_clusters + rows, UNLABELLED)
    )
    return labels, centroids + center[None], inertia, sizes
