"""Exact selection of the k-th largest value from counts alone; values may be split over devices.

The search runs on the bits of the values, which sort as the values do. Each pass counts the values
at or above fifteen thresholds between a lower and an upper bound, which settles four bits. The
first bounds come from a sample of the values, and the search ends once a threshold is reached by
exactly k values: about four passes instead of the eight that 32 bits would take.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt32

_THRESHOLDS = 15  # per pass
_SAMPLE = 1 << 14  # most values of a row that are sampled for the first bounds
_DEVIATIONS = 5  # standard deviations of the sampled rank between the target and either bound
_SIGN = np.uint32(1 << 31)
# sortable bits of the lowest finite value and of inf
_LEAST, _INFINITY = np.uint32(0x00800000), np.uint32(0xFF800000)


class _Bounds(NamedTuple):
    """Bounds of the k-th largest value in sortable bits, one pair per row.

    At least k values are >= `low`, and fewer than k are >= `high`. If a row has fewer than k
    values, `low` is the lowest finite value.
    """

    low: UInt32[Array, " b"]
    high: UInt32[Array, " b"]
    done: Bool[Array, " b"]  # exactly k values are >= `low`


def kth_largest(
    values: Float[Array, "b n"], k: int, *, axis: str | None = None
) -> Float[Array, " b"]:
    """Return a bound for each row that exactly its k largest values, ties included, are >= to.

    The bound lies above the next smaller value, but need not be one of the values. Values of -inf
    are ignored; if fewer than k values remain, all of them reach the bound.

    Args:
      values: One row of values per search.
      k: Rank of the value to select, counted from 1.
      axis: Axis of the mesh over which the values of a row are split, if any.
    """
    ranks = jnp.full(values.shape[0], k)
    bounds = _widest(ranks)
    if values.shape[1] > _SAMPLE:
        bounds = _pass(values, ranks, bounds, *_likely(values, k, axis), axis)
    return _from_sortable(_search(values, ranks, bounds, axis).low)


def sample_size(num_values: int) -> int:
    """Return how many of a row's values are sampled for the first bounds; 0 if the row is short."""
    return -(-num_values // _sample_stride(num_values)) if num_values > _SAMPLE else 0


def _sample_stride(num_values: int) -> int:
    return -(-num_values // _SAMPLE)


def sums(operands: Sequence[Shaped[Array, "..."]], *, axis: int = 1) -> list[Array]:
    """Return the sum of each array along `axis`, in one pass over arrays of the same shape."""
    zeros = [jnp.zeros((), x.dtype) for x in operands]
    return jax.lax.reduce(
        list(operands), zeros, lambda a, b: [x + y for x, y in zip(a, b, strict=True)], (axis,)
    )


def _from_sortable(bits: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Return the float32 values of bits that sort as the values do."""
    return jax.lax.bitcast_convert_type(jnp.where(bits >= _SIGN, bits ^ _SIGN, ~bits), jnp.float32)


def _widest(like: Int[Array, " b"]) -> _Bounds:
    low = jnp.full_like(like, _LEAST, jnp.uint32)
    return _Bounds(low, jnp.full_like(low, _INFINITY), jnp.zeros_like(low, bool))


def _search(
    values: Float[Array, "b n"], k: Int[Array, " b"], bounds: _Bounds, axis: str | None
) -> _Bounds:
    def is_open(bounds: _Bounds) -> Array:
        return (~bounds.done & (bounds.high - bounds.low > 1)).any()

    def narrow(bounds: _Bounds) -> _Bounds:
        return _pass(values, k, bounds, bounds.low, bounds.high, axis)

    return jax.lax.while_loop(is_open, narrow, bounds)


def _pass(
    values: Float[Array, "b n"],
    k: Int[Array, " b"],
    bounds: _Bounds,
    first: UInt32[Array, " b"],
    last: UInt32[Array, " b"],
    axis: str | None,
) -> _Bounds:
    """Return `bounds` narrowed by counting at thresholds from `first` (exclusive) to `last`."""
    width = last - first
    step = width // (_THRESHOLDS + 1) + 1
    steps = jnp.arange(1, _THRESHOLDS + 1, dtype=jnp.uint32)
    thresholds = first[:, None] + jnp.minimum(steps[None] * step[:, None], width[:, None])
    # One reduction of many operands reads the values once and is vectorized on CPUs.
    reach = [values >= t[:, None] for t in _from_sortable(thresholds).T]
    counts = jnp.stack(sums([x.astype(jnp.int32) for x in reach]), axis=1)
    if axis:
        counts = jax.lax.psum(counts, axis)
    enough = counts >= k[:, None]
    low = jnp.maximum(bounds.low, jnp.where(enough, thresholds, _LEAST).max(axis=1))
    high = jnp.minimum(bounds.high, jnp.where(enough, _INFINITY, thresholds).min(axis=1))
    done = (counts == k[:, None]).any(axis=1)
    return _Bounds(jnp.where(bounds.done, bounds.low, low), high, bounds.done | done)


def _likely(
    values: Float[Array, "b n"], k: int, axis: str | None
) -> tuple[UInt32[Array, " b"], UInt32[Array, " b"]]:
    """Return bits that most likely enclose the k-th largest value, from a sample on each device."""
    sample = values[:, :: _sample_stride(values.shape[1])]
    devices = jax.lax.axis_size(axis) if axis else 1
    rank = k * sample.shape[1] / (values.shape[1] * devices)
    spread = _DEVIATIONS * rank**0.5
    ranks = [max(1, round(rank - spread)), min(sample.shape[1], round(rank + spread) + 1)]
    targets = jnp.repeat(jnp.array(ranks), len(values))
    bounds = _widest(targets)
    if axis:
        bounds = jax.lax.pcast(bounds, axis, to="varying")
    bounds = _search(jnp.concatenate([sample, sample]), targets, bounds, None)
    # The thresholds of the next pass exclude the lower bound, hence the 1.
    high, low = jnp.split(bounds.low - jnp.uint32(1), 2)
    return (jax.lax.pmin(low, axis), jax.lax.pmax(high, axis)) if axis else (low, high)
