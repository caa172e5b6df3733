"""Fisher vectors: how rows pull at a mixture's means and deviations.

Eq. 5 and 6 of Tokmakov et al. 2020, after Perronnin et al. 2010. For one row x and component k,

    [ p(k|x) (x - mu_k) / sigma_k,  p(k|x) ((x - mu_k)^2 / sigma_k^2 - 1) / sqrt(2) ] / sqrt(w_k)

component by component, averaged over rows. Both parts follow from the posteriors' sums times 1, x
and x^2, which `mixture.statistics` gives block by block.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fisher import rows as row_source
from fisher.gmm import GMM, mixture_of
from fisher.mixture import Density, Mixture, Statistics, centered, density, statistics
from fisher.pca import Projection, project

_BLOCK_ROWS = 1024
_MAX_AHEAD = 16  # blocks that may wait for the device: memory stays bounded


class Encoder(NamedTuple):
    """A mixture with what turns its statistics into Fisher vectors, in float32."""

    projection: Projection | None  # of the rows, before the mixture sees them
    parameters: Density
    means: Float[Array, "k d"]  # seen from the center
    variances: Float[Array, "k d"]
    first_scale: Float[Array, "k d"]
    second_scale: Float[Array, "k d"]


class Running(NamedTuple):
    """Sums so far, with what rounding has left out of them, and the number of rows."""

    sums: Statistics
    lost: Statistics
    num_rows: Int[Array, ""]


def encode(x: row_source.Rows, gmm: GMM, reading: str = "paper") -> Float[Array, " v"]:
    """Mean over the rows of Eq. 5, before normalisation: [k, 2, d], flattened.

    `x` is an array [n, d] of any length, or a function that yields arrays [m, d]; memory does not
    grow with it. `gmm` is anything with `weights_`, `means_` and diagonal `covariances_`.
    `reading` is "paper", or "released": the authors' code has p(k|x) (x - mu_k) and
    p(k|x) (sigma_k^2 - (x - mu_k)^2) instead. Raises ValueError without rows: zeros would mean
    that all is as the mixture expects.
    """
    return mean_gradient(prepare(mixture_of(gmm), reading), x)


@jax.jit
def normalise(v: Float[Array, "... i"]) -> Float[Array, "... i"]:
    """Signed square root, then unit L2 norm along the last axis; zeros stay zeros."""
    # the norm of the square roots is the root of the sum of magnitudes
    v = jnp.asarray(v)
    top = jnp.abs(v).max(axis=-1, keepdims=True)
    scaled = v / jnp.where(top > 0, top, 1)
    magnitude = jnp.abs(scaled)
    total = magnitude.sum(axis=-1, keepdims=True)
    return jnp.sign(v) * jnp.sqrt(magnitude / jnp.where(total > 0, total, 1))


def prepare(mixture: Mixture, reading: str, projection: Projection | None = None) -> Encoder:
    """The encoder of `mixture` in one of the readings, for rows or their projections."""
    if reading not in _SCALES:
        raise ValueError(f"reading is {reading!r}; use one of {sorted(_SCALES)}")
    _, means = centered(mixture)
    arrays = (means, mixture.variances, *_SCALES[reading](mixture))
    return Encoder(projection, density(mixture), *(jnp.asarray(a, jnp.float32) for a in arrays))


def mean_gradient(encoder: Encoder, x: row_source.Rows) -> Float[Array, " v"]:
    """`encode` with an encoder that is prepared: blocks of one size, so that one program does."""
    num_dims = (encoder.projection or encoder.parameters)[0].shape[0]
    running = _start(encoder)
    for i, (blocks, num_rows) in enumerate(row_source.chunks(x, 1, _BLOCK_ROWS)):
        if blocks.shape[2] != num_dims:
            raise ValueError(f"rows of {blocks.shape[2]} values, not {num_dims}")
        running = _add(encoder, running, blocks[0], num_rows[0])
        if i % _MAX_AHEAD == _MAX_AHEAD - 1:
            running.num_rows.block_until_ready()
    if int(running.num_rows) == 0:
        raise ValueError("a Fisher vector needs at least one row")
    vector = _finish(encoder, running)
    if not np.isfinite(vector).all():
        raise ValueError("the rows have a value that is not finite; leave such rows out")
    return vector


def _start(encoder: Encoder) -> Running:
    num_components, num_dims = encoder.means.shape
    matrix = jnp.zeros((num_components, num_dims))
    zero = Statistics(jnp.zeros(num_components), matrix, matrix, jnp.zeros(()))
    return Running(zero, zero, jnp.zeros((), jnp.int32))


@jax.jit
def _add(
    encoder: Encoder, running: Running, x: Float[Array, "r d"], num_rows: Int[Array, ""]
) -> Running:
    """The sums with the first `num_rows` rows of a block."""
    if encoder.projection is not None:
        x = project(x, encoder.projection)
    # compensated (Kahan): a video of millions of rows is thousands of blocks
    part = jax.tree.map(jnp.subtract, statistics(x, num_rows, encoder.parameters), running.lost)
    sums = jax.tree.map(jnp.add, running.sums, part)
    lost = jax.tree.map(lambda new, old, p: (new - old) - p, sums, running.sums, part)
    return Running(sums, lost, running.num_rows + num_rows)


@jax.jit
def _finish(encoder: Encoder, running: Running) -> Float[Array, " v"]:
    """The mean over the rows of Eq. 5."""
    scale = 1 / running.num_rows.astype(jnp.float32)
    count = (running.sums.zeroth * scale)[:, None]
    seen, squared = running.sums.first * scale, running.sums.second * scale
    means = encoder.means
    deviation = seen - count * means  # mean of p (x - mu)
    # mean of p ((x - mu)^2 - sigma^2)
    spread = squared - means * (seen + deviation) - count * encoder.variances
    parts = (encoder.first_scale * deviation, encoder.second_scale * spread)
    return jnp.stack(parts, axis=1).reshape(-1)


def _paper_scales(mixture: Mixture) -> tuple[np.ndarray, np.ndarray]:
    # a component that weighs nothing is never chosen: its part is 0, not 0 / 0
    weights = mixture.weights[:, None]
    rarity = np.where(weights > 0, 1 / np.sqrt(np.where(weights > 0, weights, 1)), 0)
    return rarity / np.sqrt(mixture.variances), rarity / (np.sqrt(2) * mixture.variances)


def _released_scales(mixture: Mixture) -> tuple[np.ndarray, np.ndarray]:
    return np.ones_like(mixture.means), -np.ones_like(mixture.means)


_SCALES = {"paper": _paper_scales, "released": _released_scales}
