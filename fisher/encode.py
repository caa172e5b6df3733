"""Fisher vectors: how rows pull at a mixture's means and deviations.

Eq. 5 and 6 of Tokmakov et al. 2020, after Perronnin et al. 2010. For one row x and component k,

    [ p(k|x) (x - mu_k) / sigma_k,  p(k|x) ((x - mu_k)^2 / sigma_k^2 - 1) / sqrt(2) ] / sqrt(w_k)

component by component, averaged over rows. Both parts follow from the posteriors' sums times 1, x
and x^2, which `mixture.statistics` gives block by block.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from fisher import rows as row_source
from fisher.gmm import GMM, mixture_of
from fisher.mixture import Density, Mixture, Statistics, centered, density, statistics
from fisher.pca import Projection, project

_BLOCKS, _BLOCK_ROWS = 16, 512


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Encoder:
    """A mixture with what turns its statistics into Fisher vectors, in float32."""

    projection: Projection | None  # of the rows, before the mixture sees them
    parameters: Density
    means: Float[Array, "k d"]  # seen from the center
    variances: Float[Array, "k d"]
    first_scale: Float[Array, "k d"]
    second_scale: Float[Array, "k d"]
    columns: row_source.Columns = field(metadata={"static": True})  # of the rows that it is given


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
    encoder = prepare(mixture_of(gmm), reading)
    num_dims = encoder.means.shape[1]
    for ended, (vectors,) in mean_gradients((encoder,), [x], num_dims):
        if ended:
            check_finite(vectors[ended[0]])
            return vectors[ended[0]]
    raise ValueError("a Fisher vector needs at least one row")


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


def prepare(
    mixture: Mixture,
    reading: str,
    projection: Projection | None = None,
    columns: row_source.Columns | None = None,
) -> Encoder:
    """The encoder of `mixture` in one of the readings, for rows or projections of their columns."""
    if reading not in _SCALES:
        raise ValueError(f"reading is {reading!r}; use one of {sorted(_SCALES)}")
    _, means = centered(mixture)
    first_scale, second_scale = _SCALES[reading](mixture)
    return Encoder(
        projection,
        density(mixture),
        means=jnp.asarray(means, jnp.float32),
        variances=jnp.asarray(mixture.variances, jnp.float32),
        first_scale=jnp.asarray(first_scale, jnp.float32),
        second_scale=jnp.asarray(second_scale, jnp.float32),
        columns=columns or row_source.Columns(),
    )


def mean_gradients(
    encoders: tuple[Encoder, ...], collection: Iterable[row_source.Rows], num_dims: int
) -> Iterator[tuple[dict[int, int], tuple[Float[Array, "b v"], ...]]]:
    """`encode` of every item of a collection, of rows of `num_dims` values, by each encoder.

    Yields, a chunk of rows at a time, which items end in it, {item: b}, and vectors of which row b
    is that item's. Items without rows never come. Memory grows with neither rows nor items.
    """
    running = tuple(_start(encoder) for encoder in encoders)
    waiting = None  # for the device, while the next chunk is read
    for chunk in row_source.segments(collection, num_dims, _BLOCKS, _BLOCK_ROWS):
        running, vectors = _advance(encoders, running, *chunk[:4])
        if waiting is not None:
            jax.block_until_ready(waiting[1])  # or chunks queue up where rows are read faster
            yield waiting
        waiting = chunk.ended, vectors
    if waiting is not None:
        yield waiting


def check_finite(vector: Float[Array, " v"] | Float[np.ndarray, " v"]) -> None:
    """Raises ValueError for what comes of rows that are not finite."""
    if not np.isfinite(vector).all():
        raise ValueError("the rows have a value that is not finite; leave such rows out")


def _start(encoder: Encoder) -> Running:
    num_components, num_dims = encoder.means.shape
    matrix = jnp.zeros((num_components, num_dims))
    zero = Statistics(jnp.zeros(num_components), matrix, matrix, jnp.zeros(()))
    return Running(zero, zero, jnp.zeros((), jnp.int32))


@jax.jit
def _advance(
    encoders: tuple[Encoder, ...],
    running: tuple[Running, ...],
    blocks: Float[Array, "b r d"],
    num_rows: Int[Array, " b"],
    is_first: Bool[Array, " b"],
    is_last: Bool[Array, " b"],
) -> tuple[tuple[Running, ...], tuple[Float[Array, "b v"], ...]]:
    """Block after block, begun anew where an item begins; the items' vectors where they end."""

    def step(running: tuple[Running, ...], block: tuple[Array, ...]) -> tuple:
        num_rows, is_last = block[1], block[3]
        running = jax.lax.cond(  # blocks without rows cost nothing
            num_rows > 0,
            lambda: tuple(_add(e, r, *block[:3]) for e, r in zip(encoders, running, strict=True)),
            lambda: running,
        )
        vectors = jax.lax.cond(
            is_last,
            lambda: tuple(_finish(e, r) for e, r in zip(encoders, running, strict=True)),
            lambda: tuple(jnp.zeros(2 * e.means.size) for e in encoders),
        )
        return running, vectors

    return jax.lax.scan(step, running, (blocks, num_rows, is_first, is_last))


def _add(
    encoder: Encoder,
    running: Running,
    x: Float[Array, "r d"],
    num_rows: Int[Array, ""],
    is_first: Bool[Array, ""],
) -> Running:
    """The sums with the first `num_rows` rows of a block, or these alone."""
    x = encoder.columns.of(x)
    if encoder.projection is not None:
        x = project(x, encoder.projection)
    running = jax.tree.map(lambda a: jnp.where(is_first, 0, a), running)
    part = statistics(x, num_rows, encoder.parameters)
    # compensated (Kahan): a video of millions of rows is thousands of blocks
    part = jax.tree.map(jnp.subtract, part, running.lost)
    sums = jax.tree.map(jnp.add, running.sums, part)
    lost = jax.tree.map(lambda new, old, p: (new - old) - p, sums, running.sums, part)
    return Running(sums, lost, running.num_rows + num_rows)


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
