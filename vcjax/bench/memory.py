"""Memory per device of the local aggregation loss and its gradient, from a formula and from XLA.

The program is compiled but not run, so that banks larger than this machine's memory can be sized.
The seconds are the time of the compilation.
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
from vcjax.objectives import local_aggregation, top_k
from vcjax.runtime import sharding

SIZES = (235_000, 1_000_000, 5_000_000, 10_000_000, 100_000_000)


class Bytes(NamedTuple):
    """Bytes of memory per device."""

    arrays: int  # bank, labels and batch
    work: int  # temporary buffers of the loss


def predicted(num_rows: int, num_devices: int, *, batch: int = BATCH) -> Bytes:
    """Return the memory by formula: arrays 4 r (d + m) + 4 b d, work 4 r m + (9 r + 8 s) c bytes.

    r is the number of rows per device and m the number of runs of K-means. c clips are compared
    with the bank at a time; each comparison takes four bytes of similarity, four of weight and one
    of mask. s similarities per clip are sampled for either bound of the threshold. Labels are
    copied once.
    """
    rows = -(-num_rows // num_devices)
    clips = local_aggregation.clips_at_a_time(batch, DIM, rows)
    arrays = 4 * rows * (DIM + NUM_RUNS) + 4 * batch * DIM
    work = 4 * rows * NUM_RUNS + (9 * rows + 8 * top_k.sample_size(rows)) * clips
    return Bytes(arrays, work)


def compiled(
    num_rows: int,
    mesh: jax.sharding.Mesh,
    *,
    batch: int = BATCH,
    options: dict[str, str | bool] | None = None,
) -> Bytes:
    """Return the memory that XLA, with `options`, allocates on each device of `mesh`."""

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
    analysis: Any = jax.jit(step).lower(*arguments).compile(options).memory_analysis()
    return Bytes(analysis.argument_size_in_bytes, analysis.temp_size_in_bytes)


def cases() -> Iterator[dict[str, Any]]:
    """Yield banks from the size of Kinetics upwards, on all devices."""
    mesh = sharding.make()
    for num_rows in SIZES:
        begin = time.perf_counter()
        actual, formula = sum(compiled(num_rows, mesh)), sum(predicted(num_rows, mesh.size))
        yield _timing.case(
            "memory",
            f"{num_rows:,} rows on {mesh.size}: {actual / 1e6:,.0f} MB a device, "
            f"formula {formula / 1e6:,.0f}",
            time.perf_counter() - begin,
        )
