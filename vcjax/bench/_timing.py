"""Medians of timings, and what the device could do at best."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_SIDE = 2048  # of the matrices multiplied to find the peak
_VALUES = 1 << 26  # of the array copied to find it
_SECONDS = 1.0  # spent on repetitions at least


class Peaks(NamedTuple):
    """What the device was measured to do."""

    flops: float  # a second, of a matrix product, in float32 at full precision
    bandwidth: float  # bytes a second, read and written


def median_seconds(run: Callable[[], Any], *, repetitions: int = 5, warm_ups: int = 1) -> float:
    """Median seconds of `run`, until what it returns is ready; the first runs compile.

    Of at least so many repetitions, and of as many more as fit into a second: a short one is
    disturbed more by what else the machine does.
    """
    for _ in range(warm_ups):
        jax.block_until_ready(run())
    seconds: list[float] = []
    while len(seconds) < repetitions or sum(seconds) < _SECONDS:
        begin = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


@functools.cache
def peaks(dtype: str = "float32") -> Peaks:
    """The peaks of the first device, for matrix products of `dtype`."""
    matrix = jnp.ones((_SIDE, _SIDE), dtype)
    product = jax.jit(lambda a: jnp.dot(a, a, precision=jax.lax.Precision.HIGHEST))
    vector = jnp.ones(_VALUES, jnp.float32)
    copy = jax.jit(lambda a: a + 1)
    return Peaks(
        2 * _SIDE**3 / median_seconds(lambda: product(matrix)),
        2 * vector.nbytes / median_seconds(lambda: copy(vector)),
    )


def case(
    name: str,
    text: str,
    ours: float,
    *,
    peer: tuple[str, float] | None = None,
    flops: float = 0.0,
    num_bytes: float = 0.0,
    dtype: str = "float32",
) -> dict[str, Any]:
    """A line of the table: our seconds beside the peer's, and beside the device's peaks.

    `flops` of matrix products in `dtype`, and `num_bytes` that have to be read or written, are what
    the work cannot do without: the slower of them is its floor.
    """
    line = {"name": name, "case": text, "device": jax.devices()[0].device_kind, "ours_s": ours}
    if peer:
        line |= {"peer": peer[0], "peer_s": peer[1], "ratio": ours / peer[1]}
    if flops or num_bytes:
        floor = max(flops / peaks(dtype).flops, num_bytes / peaks(dtype).bandwidth)
        line |= {"floor_s": floor, "fraction": floor / ours}
    return line
