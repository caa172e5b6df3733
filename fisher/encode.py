"""Fisher vectors: derivatives of a mixture's log-likelihood in its means and standard deviations.

Equations 5 and 6 of Tokmakov, Hebert and Schmid (2020), after Perronnin et al. (2010).
`reference_fisher_vector` states the equations. `encode` computes the same vector on the device in
float32, in constant memory: both parts of a Fisher vector follow from the sums over all rows of
p(k|x), p(k|x) x and p(k|x) x^2, which `mixture.statistics` computes block by block.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from fisher import rows as row_source
from fisher.gmm import mixture_of
from fisher.mixture import Density, Mixture, Statistics, centered, density, statistics
from fisher.pca import Projection, project

# Blocks per chunk, and rows per block: few enough for the caches of a CPU; on accelerators, where
# a block costs some thirty kernels of any size, as many as the mixture is fitted with.
_BLOCKS = {"cpu": (16, 512)}
_ACCELERATOR_BLOCKS = (4, 4096)


def reference_fisher_vector(
    x: Float[np.ndarray, "n d"],
    weights: Float[np.ndarray, " k"],
    means: Float[np.ndarray, "k d"],
    stds: Float[np.ndarray, "k d"],
) -> Float[np.ndarray, " v"]:
    """Return the Fisher vector of `x` before normalization, as Eq. 5 and 6 state it, in float64.

    The 2 k d values are ordered as [k, 2, d]: for each component the mean part, then the std part.

    Raises:
      ValueError: if there are no rows, or if they do not have the dimension of the mixture.
    """
    for name, array in (("weights", weights), ("means", means), ("stds", stds)):
        row_source.check_numbers(name, array)
    mixture = mixture_of(SimpleNamespace(weights_=weights, means_=means, covariances_=stds))
    weights, means, stds = mixture
    row_source.check_array(x, means.shape[1])
    check_finite(x)
    if not len(x):
        raise ValueError("a Fisher vector needs at least one row")
    phi = (x.astype(np.float64)[:, None] - means) / stds  # Eq. 6, [n, k, d]
    phi_prime = phi**2 - 1  # Eq. 6
    # log(w_k N(x; mu_k, sigma_k)) without (2 pi)^(-d/2), which cancels in the posterior
    log_joint = np.log(weights) - (phi**2 / 2 + np.log(stds)).sum(axis=2)
    posterior = np.exp(log_joint - log_joint.max(axis=1, keepdims=True))
    posterior /= posterior.sum(axis=1, keepdims=True)  # p(mu_k|x), [n, k]
    factor = (posterior / np.sqrt(weights))[:, :, None]
    mean_part, std_part = factor * phi, factor * phi_prime / np.sqrt(2)  # Eq. 5
    return np.stack([mean_part, std_part], axis=2).mean(axis=0).reshape(-1)  # avg over x


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Encoder:
    """A mixture and the constants that turn its statistics into Fisher vectors, in float32."""

    projection: Projection | None  # PCA that is applied to the rows first
    parameters: Density
    means: Float[Array, "k d"]  # relative to `parameters.center`
    variances: Float[Array, "k d"]
    mean_scale: Float[Array, "k d"]  # factor of the mean part
    std_scale: Float[Array, "k d"]  # factor of the std part
    columns: row_source.Columns = field(metadata={"static": True})  # selected before the PCA


class RunningSums(NamedTuple):
    """Running sums with their Kahan compensation terms, and the number of rows."""

    sums: Statistics
    compensation: Statistics
    num_rows: Int[Array, ""]


class _Blocks(NamedTuple):
    """Blocks of rows and their place in the items; or, within a scan, a single block."""

    rows: Float[Array, "*b r d"]
    num_rows: Int[Array, "*b"]
    is_primary: Bool[Array, "*b"]
    is_last: Bool[Array, "*b"]


def encode(x: row_source.Rows, gmm: Any, variant: str = "paper") -> Float[Array, " v"]:
    """Return the Fisher vector of the rows `x` before normalization: [k, 2, d], flattened.

    Args:
      x: an array [n, d] of any length, or a function that yields arrays [m, d]. Memory does not
        grow with the number of rows.
      gmm: any object with `weights_`, `means_` and diagonal `covariances_`.
      variant: "paper" for Eq. 5-6; "released" for the authors' code, which averages
        p(k|x) (x - mu_k) and p(k|x) (sigma_k^2 - (x - mu_k)^2).

    Raises:
      ValueError: if there are no rows, since a vector of zeros would mean "typical", or if a value
        is not finite.
    """
    encoder = prepare(mixture_of(gmm), variant)
    num_dims = encoder.means.shape[1]
    for ended, (vectors,) in mean_gradients((encoder,), [x], num_dims):
        if ended:
            check_finite(vectors[ended[0]])
            return vectors[ended[0]]
    raise ValueError("a Fisher vector needs at least one row")


def normalize(v: Float[Array, "... i"]) -> Float[Array, "... i"]:
    """Return the signed square root of `v` with unit L2 norm along the last axis (Sec. 3.3).

    A vector of zeros stays zero.
    """
    if not isinstance(v, jax.core.Tracer):
        row_source.check_numbers("v", v)
        if not v.ndim or not v.shape[-1]:
            raise ValueError(f"v must have values along its last axis, not shape {v.shape}")
        check_finite(v)
    return _normalize(v)


@jax.jit
def _normalize(v: Float[Array, "... i"]) -> Float[Array, "... i"]:
    # the squared norm of the square roots is the sum of the magnitudes
    v = jnp.asarray(v)
    top = jnp.abs(v).max(axis=-1, keepdims=True)
    scaled = v / jnp.where(top > 0, top, 1)
    magnitude = jnp.abs(scaled)
    total = magnitude.sum(axis=-1, keepdims=True)
    return jnp.sign(v) * jnp.sqrt(magnitude / jnp.where(total > 0, total, 1))


def prepare(
    mixture: Mixture,
    variant: str,
    projection: Projection | None = None,
    columns: row_source.Columns | None = None,
) -> Encoder:
    """Return the encoder of `mixture` for `variant`, "paper" or "released".

    The encoder selects `columns` of the rows and applies `projection`, if given, before the
    mixture.
    """
    if not isinstance(variant, str) or variant not in _SCALES:
        raise ValueError(f"variant is {variant!r}; use {' or '.join(_SCALES)}")
    _, means = centered(mixture)
    mean_scale, std_scale = _SCALES[variant](mixture)
    return Encoder(
        projection,
        density(mixture),
        means=jnp.asarray(means, jnp.float32),
        variances=jnp.asarray(mixture.variances, jnp.float32),
        mean_scale=jnp.asarray(mean_scale, jnp.float32),
        std_scale=jnp.asarray(std_scale, jnp.float32),
        columns=columns or row_source.Columns(),
    )


def mean_gradients(
    encoders: tuple[Encoder, ...], collection: Iterable[row_source.Rows], num_dims: int
) -> Iterator[tuple[dict[int, int], tuple[Float[Array, "b v"], ...]]]:
    """Yield the Fisher vectors of every item of a collection, one array for each encoder.

    Each step yields, for one chunk of rows, a dictionary {item: b} of the items that end in the
    chunk, and arrays whose row b is the vector of that item. Items without rows are never yielded.
    Memory grows neither with the number of rows nor with the number of items.

    Raises:
      ValueError: if an item has rows of other than `num_dims` values.
    """
    running = tuple(_start(encoder) for encoder in encoders)
    pending = None  # computed by the device while the next chunk is read
    blocks_and_rows = _BLOCKS.get(jax.default_backend(), _ACCELERATOR_BLOCKS)
    for chunk in row_source.segments(collection, num_dims, *blocks_and_rows):
        blocks = _Blocks(*(jnp.asarray(array) for array in chunk[:4]))
        running, vectors = _advance(encoders, running, blocks)
        if pending is not None:
            # without waiting, chunks would pile up when rows are read faster than encoded
            jax.block_until_ready(pending[1])
            yield pending
        pending = chunk.ended, vectors
    if pending is not None:
        yield pending


def check_finite(vector: Float[Array, " v"] | Float[np.ndarray, " v"]) -> None:
    """Raise ValueError if the vector, and so one of its rows, has a value that is not finite."""
    if not np.isfinite(vector).all():
        raise ValueError("the rows have a value that is not finite; remove such rows")


def _start(encoder: Encoder) -> RunningSums:
    num_components, num_dims = encoder.means.shape
    matrix = jnp.zeros((num_components, num_dims))
    zero = Statistics(jnp.zeros(num_components), matrix, matrix, jnp.zeros(()))
    return RunningSums(zero, zero, jnp.zeros((), jnp.int32))


@jax.jit
def _advance(
    encoders: tuple[Encoder, ...], running: tuple[RunningSums, ...], blocks: _Blocks
) -> tuple[tuple[RunningSums, ...], tuple[Float[Array, "b v"], ...]]:
    """Return the sums after all blocks, and per block the vector of the item that ends there.

    The vectors of blocks that end no item are zero.
    """

    def step(
        running: tuple[RunningSums, ...], block: _Blocks
    ) -> tuple[tuple[RunningSums, ...], tuple[Float[Array, " v"], ...]]:
        running = jax.lax.cond(  # skips the computation for blocks without rows
            block.num_rows > 0,
            lambda: tuple(_add(e, r, block) for e, r in zip(encoders, running, strict=True)),
            lambda: running,
        )
        vectors = jax.lax.cond(
            block.is_last,
            lambda: tuple(_finish(e, r) for e, r in zip(encoders, running, strict=True)),
            lambda: tuple(jnp.zeros(2 * e.means.size) for e in encoders),
        )
        return running, vectors

    return jax.lax.scan(step, running, blocks)


def _add(encoder: Encoder, running: RunningSums, block: _Blocks) -> RunningSums:
    """Return the sums with the rows of a block added; the first block of an item resets them."""
    x = encoder.columns.select(block.rows)
    if encoder.projection is not None:
        x = project(x, encoder.projection)
    running = jax.tree.map(lambda a: jnp.where(block.is_primary, 0, a), running)
    part = statistics(x, block.num_rows, encoder.parameters)
    # Kahan summation: the rounding errors of a video of thousands of blocks would add up
    part = jax.tree.map(jnp.subtract, part, running.compensation)
    sums = jax.tree.map(jnp.add, running.sums, part)
    compensation = jax.tree.map(lambda new, old, p: (new - old) - p, sums, running.sums, part)
    return RunningSums(sums, compensation, running.num_rows + block.num_rows)


def _finish(encoder: Encoder, running: RunningSums) -> Float[Array, " v"]:
    """Return the Fisher vector from the sums over an item: the mean of Eq. 5 over its rows.

    Expands p (x - mu) and p ((x - mu)^2 - sigma^2) into the means of p, p x and p x^2.
    """
    scale = 1 / running.num_rows.astype(jnp.float32)
    zeroth = (running.sums.zeroth * scale)[:, None]
    first, second = running.sums.first * scale, running.sums.second * scale
    means = encoder.means
    mean_part = first - zeroth * means
    std_part = second - means * (first + mean_part) - zeroth * encoder.variances
    parts = (encoder.mean_scale * mean_part, encoder.std_scale * std_part)
    return jnp.stack(parts, axis=1).reshape(-1)


def _paper_scales(
    mixture: Mixture,
) -> tuple[Float[np.ndarray, "k d"], Float[np.ndarray, "k d"]]:
    # a component of weight 0 has posterior 0: its part is 0, not 0 / 0
    weights = mixture.weights[:, None]
    factor = np.where(weights > 0, 1 / np.sqrt(np.where(weights > 0, weights, 1)), 0)
    return factor / np.sqrt(mixture.variances), factor / (np.sqrt(2) * mixture.variances)


def _released_scales(
    mixture: Mixture,
) -> tuple[Float[np.ndarray, "k d"], Float[np.ndarray, "k d"]]:
    return np.ones_like(mixture.means), -np.ones_like(mixture.means)


_SCALES = {"paper": _paper_scales, "released": _released_scales}
