import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from vcjax import settings
from vcjax.bench import _hlo, _targets, la_loss
from vcjax.bench import compile as bench
from vcjax.runtime import sharding

NUM_VIDEOS = la_loss.NUM_ROWS  # the paper's bank with a small network
BANK_BYTES = 4 * NUM_VIDEOS * la_loss.DIM
# Collectives in a run of a program. A step has one or two for each of its 20 normalization layers
# in either direction, and a few for loss, gradient and bank.
MAX_COLLECTIVES = {"ir": 100, "la": 120, "la_own-kmeans": 100}


def _config(batch_size):
    config = settings.paper()
    config.model.width, config.clip.side, config.clip.num_frames = 8, 32, 8
    config.ir.batch_size = config.la.batch_size = batch_size
    return config


@pytest.mark.slow
@pytest.mark.parametrize("name", MAX_COLLECTIVES)
@pytest.mark.parametrize(
    "target,batch_size", [("v5e:2x4", 256), ("v5e:16x16", 2048), ("h100x8", 256)]
)
def test_program_fits_and_leaves_the_bank_where_it_is(target, batch_size, name):
    if not _targets.is_installed(target):
        pytest.skip(f"no compiler for {target}")
    (program,) = bench.programs(_config(batch_size), target, NUM_VIDEOS, only=[name])
    report = bench.compiled(program, target, effort=-1)
    assert report.fits
    assert report.largest_collective < BANK_BYTES / 2
    assert sum(report.collectives.values()) <= MAX_COLLECTIVES[name]
    shard = -(-NUM_VIDEOS // report.num_devices)
    assert not any(f"[{shard},{la_loss.DIM}]" in shape for _, shape in report.copies)


def test_unknown_target_is_an_error():
    with pytest.raises(ValueError, match="there is no target v1:2x2; use for example v5e:2x4"):
        _targets.target("v1:2x2")


def test_missing_compiler_is_an_error_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(_targets, "is_installed", lambda name: False)
    with pytest.raises(ValueError, match=r"v5e:2x4 needs libtpu; .* 'vcjax\[aot\]'"):
        _targets.target("v5e:2x4")


def _operations(function, *arguments):
    return list(_hlo.operations(jax.jit(function).lower(*arguments).compile().as_text()))


def _over_devices(function):
    return jax.shard_map(function, mesh=sharding.make(8), in_specs=P(sharding.AXIS), out_specs=P())


def test_collectives_in_a_loop_count_with_its_iterations():
    def five_sums(x):
        def add(_, total):
            return total + jax.lax.psum(x * total.sum(), sharding.AXIS)

        return jax.lax.fori_loop(0, 5, add, jnp.ones((1, 3)))

    found = [x for x in _operations(_over_devices(five_sums), jnp.ones((8, 3)))]
    sums = [x for x in found if x.kind == "all-reduce"]
    assert sum(x.times for x in sums) == 5
    assert {x.num_bytes for x in sums} == {12}


def test_devices_exchange_no_more_than_the_batch_for_local_aggregation():
    num_rows, dim, batch = 4000, 12, 16
    devices = sharding.make(8)
    unit = np.random.default_rng(0).normal(size=(num_rows, dim)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    labels = np.random.default_rng(1).integers(9, size=(3, num_rows), dtype=np.int32)
    arguments = (
        jax.device_put(unit[:batch], sharding.rows(devices)),
        jax.device_put(unit, sharding.rows(devices)),
        jax.device_put(labels, sharding.columns(devices)),
        jnp.arange(batch),
    )

    def loss(*arguments):
        return la_loss.mean_loss(*arguments, mesh=devices)

    operations = _operations(jax.value_and_grad(loss), *arguments)
    sizes = [x.num_bytes for x in operations if x.kind in _hlo.COLLECTIVES]
    # counts of fifteen thresholds, embeddings and gradients
    assert 0 < max(sizes) <= 4 * batch * 15


@pytest.mark.parametrize(
    "shape,expected",
    [
        ("f32[2,3]{1,0}", [24]),
        ("(bf16[8]{0}, pred[5]{0}, s32[])", [16, 5, 4]),
        ("(f8e4m3fn[4]{0}, token[])", [4, 0]),
    ],
)
def test_bytes_of_the_arrays_of_a_type(shape, expected):
    assert _hlo.array_bytes(shape) == expected
