"""Memory of a device in the local aggregation loss and its gradient, from a formula and from XLA.

The compiled program is asked, so that banks can be sized that fit no machine at hand. Its seconds
are those of the compilation.
"""

import functools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vcjax.bench import _timing, la_loss
from vcjax.bench.la_loss import BATCH, DIM, NUM_RUNS
from vcjax.runtime import sharding

SIZES = (235_000, 1_000_000, 5_000_000, 10_000_000, 100_000_000)


class Bytes(NamedTuple):
    """Of one device."""

    arrays: int  # the bank, the labels and the batch
    work: int  # beside them, while the loss is taken


def predicted(num_rows: int, num_devices: int, *, batch: int = BATCH) -> Bytes:
    """With r rows on a device: 4 r (d + m) bytes of bank and labels, and 2.25 * 4 r c of work.

    c = min(b, d/2) clips are compared with the bank at a time: their similarities, weights, and,
    with a byte each, which rows are close. Labels are copied once.
    """
    rows = -(-num_rows // num_devices)
    clips = min(batch, DIM // 2)
    arrays = 4 * rows * (DIM + NUM_RUNS) + 4 * batch * DIM
    return Bytes(arrays, 4 * rows * NUM_RUNS + 9 * rows * clips)


def compiled(num_rows: int, mesh: jax.sharding.Mesh, *, batch: int = BATCH) -> Bytes:
    """What XLA sets aside for one device of `mesh`."""

    def array(spec: P, *shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    rows = -(-num_rows // mesh.size) * mesh.size
    arguments = (
        array(P(), batch, DIM),
        array(P(sharding.AXIS), rows, DIM),
        array(P(None, sharding.AXIS), NUM_RUNS, rows, dtype=jnp.int32),
        array(P(), batch, dtype=jnp.int32),
    )
    step = jax.value_and_grad(functools.partial(la_loss.mean_loss, mesh=mesh))
    analysis: Any = jax.jit(step).lower(*arguments).compile().memory_analysis()
    return Bytes(analysis.argument_size_in_bytes, analysis.temp_size_in_bytes)


def cases() -> Iterator[dict[str, Any]]:
    """Kinetics and beyond, on all devices that there are."""
    mesh = sharding.make()
    for num_rows in SIZES:
        begin = time.perf_counter()
        found, formula = sum(compiled(num_rows, mesh)), sum(predicted(num_rows, mesh.size))
        yield _timing.case(
            "memory",
            f"{num_rows:,} rows on {mesh.size}: {found / 1e6:,.0f} MB a device, "
            f"formula {formula / 1e6:,.0f}",
            time.perf_counter() - begin,
        )
