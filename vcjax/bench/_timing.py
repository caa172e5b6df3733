"""Median timings, and lower bounds from the measured peaks of the device."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Side of the square matrices whose product measures FLOP/s, and number of values of the array whose
# copy measures bandwidth. An accelerator finishes smaller ones before the next is dispatched.
_SIDE, _VALUES = 8192, 1 << 28
_SIDE_ON_CPU, _VALUES_ON_CPU = 2048, 1 << 26
_SECONDS = 1.0  # least total time of the repetitions


class Peaks(NamedTuple):
    """Measured peaks of a device."""

    flops: float  # per second, in a matrix product at full precision
    bandwidth: float  # bytes per second, read plus written


def median_seconds(run: Callable[[], Any], *, repetitions: int = 5, warm_ups: int = 1) -> float:
    """Return the median seconds of `run`, waiting until its result is ready.

    The `warm_ups` compile and are not timed. `run` is repeated at least `repetitions` times and for
    at least one second, since other load on the machine disturbs short runs more.
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
    """Return the measured peaks of the first device, for matrix products in `dtype`."""
    on_cpu = jax.default_backend() == "cpu"
    side, values = (_SIDE_ON_CPU, _VALUES_ON_CPU) if on_cpu else (_SIDE, _VALUES)
    matrix = jnp.ones((side, side), dtype)
    product = jax.jit(lambda a: jnp.dot(a, a, precision=jax.lax.Precision.HIGHEST))
    vector = jnp.ones(values, jnp.float32)
    copy = jax.jit(lambda a: a + 1)
    return Peaks(
        2 * side**3 / median_seconds(lambda: product(matrix)),
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
    """Return a row of the table, as described in `vcjax.bench.__main__`.

    The lower bound is the longer of the times of `flops` and `num_bytes` at the device's peaks.

    Args:
      name: Name of the benchmark.
      text: Description of the case.
      ours: Our median seconds.
      peer: Name and median seconds of the peer.
      flops: Floating-point operations of the matrix products that the case requires.
      num_bytes: Bytes that have to be read or written at least.
      dtype: Precision of the matrix products.
    """
    line = {"name": name, "case": text, "device": jax.devices()[0].device_kind, "ours_s": ours}
    if peer:
        line |= {"peer": peer[0], "peer_s": peer[1], "ratio": ours / peer[1]}
    if flops or num_bytes:
        floor = max(flops / peaks(dtype).flops, num_bytes / peaks(dtype).bandwidth)
        line |= {"floor_s": floor, "fraction": floor / ours}
    return line
