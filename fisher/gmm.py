"""A mixture of Gaussians with diagonal covariances, fitted by expectation-maximization (EM).

The E-step sums over rows on the devices in float32, in blocks of a fixed size that are added in a
fixed order, so that the sums do not depend on the number of devices. The M-step computes the k x d
parameters from these sums on the host in float64.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from fisher import rows as row_source
from fisher import start as starts
from fisher.mixture import Density, Mixture, Statistics, density, log_joint, statistics

_AXIS = "rows"
_BLOCKS = 16  # blocks per chunk, the unit of transfer to the devices
_BLOCK_ROWS = 4096  # large enough for efficient matrix products, small enough for the caches
_CACHE_BYTES = 2 << 30  # arrays up to this size stay on the device between iterations

Chunk = tuple[Float[Array, "b r d"], Int[Array, " b"]]


class GMM:
    """Mixture of Gaussians with diagonal covariances.

    `fit` sets `weights_ [k]`, `means_ [k, d]`, `covariances_ [k, d]` (variances),
    `log_likelihood_` (mean per row), `num_iterations_` and `converged_`. A component that loses its
    rows is revived with half of the component of the largest weight.

    Args:
      num_components: number of Gaussians.
      seed: seed of the initialization.
      start: initialization, "kmeans++" or "random" (random rows as means).
      num_starts: number of fits, of which the fit with the highest log-likelihood is kept.
      max_iterations: maximum number of EM iterations per fit.
      tolerance: a fit has converged when the mean log-likelihood rises by less per iteration.
      variance_floor: lower bound of the variances, as a fraction of the variances of all rows.
      mesh: devices over which the rows are sharded, along all axes; None: the first local device.
    """

    weights_: Float[np.ndarray, " k"]
    means_: Float[np.ndarray, "k d"]
    covariances_: Float[np.ndarray, "k d"]
    log_likelihood_: float
    num_iterations_: int
    converged_: bool

    def __init__(
        self,
        num_components: int,
        seed: int = 0,
        *,
        start: str = "kmeans++",
        num_starts: int = 1,
        max_iterations: int = 100,
        tolerance: float = 1e-3,
        variance_floor: float = 1e-4,
        mesh: Mesh | None = None,
    ):
        row_source.check_count("num_components", num_components, 1)
        row_source.check_count("num_starts", num_starts, 1)
        row_source.check_count("max_iterations", max_iterations, 1)
        row_source.check_count("seed", seed)
        row_source.check_number("tolerance", tolerance, -np.inf)
        row_source.check_number("variance_floor", variance_floor, 0, 1e38)
        if not isinstance(start, str) or start not in starts.STARTS:
            raise ValueError(f"start is {start!r}; use {' or '.join(sorted(starts.STARTS))}")
        self.num_components, self.seed = num_components, seed
        self.start, self.num_starts = start, num_starts
        self.max_iterations, self.tolerance = max_iterations, tolerance
        self.variance_floor, self.mesh = variance_floor, mesh

    def fit(self, x: row_source.Rows, initial: Mixture | None = None) -> "GMM":
        """Fit the mixture to the rows of `x` and return it.

        Args:
          x: an array [n, d], which may be a memory map larger than memory, or a function without
            arguments that returns a new iterator of arrays [m, d] at each call.
          initial: mixture to begin with; overrides `start` and `num_starts`.

        Raises:
          ValueError: if there are fewer rows than components, or if a value is not finite.
        """
        moments = row_source.moments(x)
        if moments.num_rows < self.num_components:
            raise ValueError(
                f"{self.num_components} components need at least as many rows, not "
                f"{moments.num_rows}; give more rows or lower num_components"
            )
        num_dims = len(moments.mean)
        if initial is not None and not isinstance(initial, Mixture):
            raise ValueError(f"initial must be a Mixture, not a {type(initial).__name__}")
        if initial and initial.means.shape != (self.num_components, num_dims):
            raise ValueError(
                f"the initial mixture has means of shape {initial.means.shape}, not "
                f"({self.num_components}, {num_dims})"
            )
        floor = self.variance_floor * _typical_variance(moments.variance)
        passes = Passes(x, moments.num_rows, self.mesh)
        best = -np.inf
        for run in range(self.num_starts if initial is None else 1):
            mixture = initial or starts.draw(
                self.start, x, moments, self.num_components, seed=self.seed + run, floor=floor
            )
            mixture, log_likelihood, num_iterations, converged = self._iterate(
                passes, mixture, floor, moments.num_rows
            )
            if log_likelihood > best:
                best = log_likelihood
                self.weights_, self.means_, self.covariances_ = mixture
                self.log_likelihood_ = log_likelihood
                self.num_iterations_, self.converged_ = num_iterations, converged
        return self

    def _iterate(
        self, passes: "Passes", mixture: Mixture, floor: Float[np.ndarray, " d"], num_rows: int
    ) -> tuple[Mixture, float, int, bool]:
        """Run EM until the mean log-likelihood rises by less than the tolerance.

        Returns:
          The mixture, the mean log-likelihood per row, the number of iterations, and whether the
          fit has converged.
        """
        center, sums = passes.expectation(mixture)
        log_likelihood = float(sums.log_likelihood) / num_rows
        for iteration in range(1, self.max_iterations + 1):
            mixture, num_revived = maximization(sums, center, floor)
            center, sums = passes.expectation(mixture)
            previous, log_likelihood = log_likelihood, float(sums.log_likelihood) / num_rows
            logging.log_every_n_seconds(
                logging.INFO,
                "mixture: iteration %d, mean log-likelihood %.5f",
                10,
                iteration,
                log_likelihood,
            )
            # reviving a component may lower the likelihood, which is not convergence
            converged = not num_revived and log_likelihood - previous < self.tolerance
            if converged:
                break
        return mixture, log_likelihood, iteration, converged

    def posterior(self, x: Float[np.ndarray, "n d"]) -> Float[Array, "n k"]:
        """Return p(component | row) of the rows `x`.

        Raises:
          ValueError: if `x` is not an array of rows of the mixture's dimension.
        """
        mixture = mixture_of(self)
        row_source.check_array(x, mixture.means.shape[1])
        return jax.nn.softmax(log_joint(jnp.asarray(x, jnp.float32), density(mixture)))

    def score(self, x: row_source.Rows) -> float:
        """Return the mean log-likelihood per row of `x` (see `fit`)."""
        mixture, moments = mixture_of(self), row_source.moments(x)
        num_rows, num_dims = moments.num_rows, mixture.means.shape[1]
        if len(moments.mean) != num_dims:
            raise ValueError(f"rows of {len(moments.mean)} values, not {num_dims}")
        _, sums = Passes(x, num_rows, self.mesh).expectation(mixture)
        return float(sums.log_likelihood) / num_rows


def mixture_of(gmm: Any) -> Mixture:
    """Return the parameters of an object with `weights_`, `means_` and diagonal `covariances_`.

    Raises:
      ValueError: if `gmm` is not fitted, shapes do not match, or a variance is not positive.
    """
    if not all(hasattr(gmm, name) for name in ("weights_", "means_", "covariances_")):
        raise ValueError("this mixture is not fitted; call fit first")
    weights, means, variances = (
        np.asarray(a, np.float64) for a in (gmm.weights_, gmm.means_, gmm.covariances_)
    )
    if means.ndim != 2 or weights.shape != means.shape[:1] or variances.shape != means.shape:
        raise ValueError(
            f"a diagonal mixture has weights [k], means [k, d] and covariances [k, d], not "
            f"{weights.shape}, {means.shape} and {variances.shape}"
        )
    if not (variances > 0).all() or not all(np.isfinite(a).all() for a in (weights, means)):
        raise ValueError("a mixture has finite weights and means and positive variances")
    return Mixture(weights, means, variances)


def maximization(
    sums: Statistics, center: Float[np.ndarray, " d"], floor: Float[np.ndarray, " d"]
) -> tuple[Mixture, int]:
    """Return the mixture of maximum likelihood given the sums (the M-step).

    Args:
      sums: sums of all rows, relative to `center`.
      center: point that was subtracted from the rows.
      floor: lower bound of the variances.

    Returns:
      The mixture and the number of components without rows, which were revived.
    """
    count, first, second = (np.asarray(a, np.float64) for a in sums[:3])
    alive = count > min(1.0, 0.1 * count.sum() / len(count))  # rows
    divisor = np.where(alive, count, 1)[:, None]
    offset = first / divisor
    # rounding may leave a negative variance where a component has copies of a single point
    variances = np.maximum(second / divisor - offset**2, floor)
    means, weights = center + offset, count.copy()
    for empty in np.flatnonzero(~alive):  # split the heaviest component along its longest axis
        heaviest = int(weights.argmax())
        step = np.zeros(means.shape[1])
        longest = int(variances[heaviest].argmax())
        step[longest] = 0.5 * np.sqrt(variances[heaviest, longest])
        means[empty], means[heaviest] = means[heaviest] + step, means[heaviest] - step
        variances[empty] = variances[heaviest]
        weights[empty] = weights[heaviest] = weights[heaviest] / 2
    return Mixture(weights / weights.sum(), means, variances), int((~alive).sum())


def _typical_variance(variance: Float[np.ndarray, " d"]) -> Float[np.ndarray, " d"]:
    """Return the variance of each column, bounded below by 0.1% of the mean over columns.

    A (nearly) constant column would have no meaningful floor; if all are constant, returns ones.
    """
    mean = float(variance.mean())
    return np.maximum(variance, 1e-3 * mean) if mean > 0 else np.ones_like(variance)


class Passes:
    """Passes over all rows; each computes the sufficient statistics of a mixture (the E-step)."""

    def __init__(self, x: row_source.Rows, num_rows: int, mesh: Mesh | None):
        self._mesh = mesh or jax.make_mesh(
            (1,), (_AXIS,), (jax.sharding.AxisType.Auto,), devices=jax.local_devices()[:1]
        )
        self._x = x
        # rounded up to a multiple of the number of devices; rows per block do not depend on it
        self._num_blocks = -(-_BLOCKS // self._mesh.size) * self._mesh.size
        small = max(128, 1 << max(0, (num_rows - 1) // _BLOCKS).bit_length())
        self._block_rows = min(_BLOCK_ROWS, small)
        self._sharding = NamedSharding(self._mesh, PartitionSpec(self._mesh.axis_names))
        self._use_cache = not callable(x) and num_rows * x.shape[1] * 4 <= _CACHE_BYTES
        self._cache: list[Chunk] | None = None

    def expectation(self, mixture: Mixture) -> tuple[Float[np.ndarray, " d"], Statistics]:
        """Return the center subtracted from the rows, and the sums over rows, in float64."""
        parameters = density(mixture)
        total: Statistics | None = None
        for block, num_rows in self._chunks():
            sums = _chunk_statistics(block, num_rows, parameters, self._mesh)
            sums = jax.tree.map(lambda a: np.asarray(a, np.float64), sums)
            total = sums if total is None else jax.tree.map(np.add, total, sums)
        assert total is not None  # `fit` and `score` require at least one row
        return np.asarray(parameters.center, np.float64), total

    def _chunks(self) -> Iterable[Chunk]:
        if self._cache is None and self._use_cache:
            self._cache = list(self._read())
        return self._cache if self._cache is not None else self._read()

    def _read(self) -> Iterator[Chunk]:
        for block, num_rows in row_source.chunks(self._x, self._num_blocks, self._block_rows):
            yield self._place(block), self._place(num_rows)

    def _place(self, array: np.ndarray) -> Array:
        # each process transfers only the shards of its own devices
        return jax.make_array_from_callback(array.shape, self._sharding, lambda index: array[index])


@functools.partial(jax.jit, static_argnames="mesh")
def _chunk_statistics(
    blocks: Float[Array, "b r d"], num_rows: Int[Array, " b"], parameters: Density, mesh: Mesh
) -> Statistics:
    """Return the sums over the rows of all blocks, added in the order of the blocks."""
    sharded = PartitionSpec(mesh.axis_names)

    def block_statistics(block: tuple[Float[Array, "r d"], Int[Array, ""]]) -> Statistics:
        x, num_rows = block
        shapes = jax.eval_shape(statistics, x, num_rows, parameters)
        return jax.lax.cond(  # skips the computation for blocks without rows
            num_rows > 0,
            lambda: statistics(x, num_rows, parameters),
            lambda: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes),
        )

    each = jax.shard_map(
        lambda *chunk: jax.lax.map(block_statistics, chunk),
        mesh=mesh,
        in_specs=(sharded, sharded),
        out_specs=sharded,
        check_vma=False,  # the zeros of a skipped block do not vary over devices
    )(blocks, num_rows)
    each = jax.lax.with_sharding_constraint(each, NamedSharding(mesh, PartitionSpec()))

    def add(total: Statistics, part: Statistics) -> tuple[Statistics, None]:
        return jax.tree.map(jnp.add, total, part), None

    return jax.lax.scan(add, jax.tree.map(lambda a: jnp.zeros_like(a[0]), each), each)[0]
