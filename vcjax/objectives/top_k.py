"""Which values are the k largest, exactly, from counts alone; values may lie on many devices.

A pass counts what fifteen thresholds leave between a lower and an upper bound, in the order of the
values' bits, and so settles four bits. A sample of the values gives the first bounds, and a search
ends where a threshold leaves exactly k: some four passes instead of eight over all 32 bits.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt32

_THRESHOLDS = 15  # counted in a pass
_SAMPLE = 1 << 14  # values of a row, at most, that the first bounds are taken from
_DEVIATIONS = 5  # of a rank in the sample, to either side of the one that is wanted
_SIGN = np.uint32(1 << 31)
# sortable bits of the least finite value and of inf
_LEAST, _INFINITY = np.uint32(0x00800000), np.uint32(0xFF800000)


class _Bounds(NamedTuple):
    """In sortable bits: k values reach `low`, fewer reach `high`; `found`: exactly k reach `low`.

    Where there are fewer than k values, `low` is that of the least that there can be.
    """

    low: UInt32[Array, " b"]
    high: UInt32[Array, " b"]
    found: Bool[Array, " b"]


def selecting(
    values: Float[Array, "b n"], k: int, *, axis: str | None = None
) -> Float[Array, " b"]:
    """A bound for each row that its k largest values reach, those equal to the last, and no other.

    Values of -inf do not count; where there are fewer than k others, all of them reach the bound.
    With `axis`, a row's values lie on all devices along that axis of the mesh.
    """
    wanted = jnp.full(values.shape[0], k)
    bounds = _widest(wanted)
    if values.shape[1] > _SAMPLE:
        bounds = _pass(values, wanted, bounds, *_likely(values, k, axis), axis)
    return _from_sortable(_search(values, wanted, bounds, axis).low)


def sums(operands: Sequence[Shaped[Array, "..."]], *, axis: int = 1) -> list[Array]:
    """Sum of each of several arrays of one shape along an axis, in one pass over them."""
    zeros = [jnp.zeros((), x.dtype) for x in operands]
    return jax.lax.reduce(
        list(operands), zeros, lambda a, b: [x + y for x, y in zip(a, b, strict=True)], (axis,)
    )


def _from_sortable(bits: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """The float32 value of bits that sort as the values do."""
    return jax.lax.bitcast_convert_type(jnp.where(bits >= _SIGN, bits ^ _SIGN, ~bits), jnp.float32)


def _widest(like: Int[Array, " b"]) -> _Bounds:
    low = jnp.full_like(like, _LEAST, jnp.uint32)
    return _Bounds(low, jnp.full_like(low, _INFINITY), jnp.zeros_like(low, bool))


def _search(
    values: Float[Array, "b n"], k: Int[Array, " b"], bounds: _Bounds, axis: str | None
) -> _Bounds:
    def is_open(bounds: _Bounds) -> Array:
        return (~bounds.found & (bounds.high - bounds.low > 1)).any()

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
    """`bounds` after counting at thresholds from `first` (excluded) to `last`."""
    width = last - first
    step = width // (_THRESHOLDS + 1) + 1
    steps = jnp.arange(1, _THRESHOLDS + 1, dtype=jnp.uint32)
    thresholds = first[:, None] + jnp.minimum(steps[None] * step[:, None], width[:, None])
    # one reduction of many operands reads the values once, and is vectorised on CPUs
    reach = [values >= t[:, None] for t in _from_sortable(thresholds).T]
    counts = jnp.stack(sums([x.astype(jnp.int32) for x in reach]), axis=1)
    if axis:
        counts = jax.lax.psum(counts, axis)
    enough = counts >= k[:, None]
    low = jnp.maximum(bounds.low, jnp.where(enough, thresholds, _LEAST).max(axis=1))
    high = jnp.minimum(bounds.high, jnp.where(enough, _INFINITY, thresholds).min(axis=1))
    found = (counts == k[:, None]).any(axis=1)
    return _Bounds(jnp.where(bounds.found, bounds.low, low), high, bounds.found | found)


def _likely(
    values: Float[Array, "b n"], k: int, axis: str | None
) -> tuple[UInt32[Array, " b"], UInt32[Array, " b"]]:
    """Bits most likely below and above those of the k-th largest, by a sample on each device."""
    sample = values[:, :: -(-values.shape[1] // _SAMPLE)]
    devices = jax.lax.axis_size(axis) if axis else 1
    rank = k * sample.shape[1] / (values.shape[1] * devices)
    spread = _DEVIATIONS * rank**0.5
    ranks = [max(1, round(rank - spread)), min(sample.shape[1], round(rank + spread) + 1)]
    wanted = jnp.repeat(jnp.array(ranks), len(values))
    bounds = _widest(wanted)
    if axis:
        bounds = jax.lax.pcast(bounds, axis, to="varying")
    found = _search(jnp.concatenate([sample, sample]), wanted, bounds, None)
    # the thresholds of the next pass come after the first of these two
    high, low = jnp.split(found.low - jnp.uint32(1), 2)
    return (jax.lax.pmin(low, axis), jax.lax.pmax(high, axis)) if axis else (low, high)
