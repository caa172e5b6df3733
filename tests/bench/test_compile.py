import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fisher import gmm, mixture
from vcjax import settings
from vcjax.bench import _hlo, _targets, la_loss
from vcjax.bench import compile as bench
from vcjax.objectives import instance_recognition
from vcjax.runtime import sharding

encode = importlib.import_module("fisher.encode")  # the package exports a function of this name
NUM_COMPONENTS, NUM_DIMS = 256, 100  # of the mixture of descriptors
NUM_VIDEOS = la_loss.NUM_ROWS  # the paper's bank with a small network
BANK_BYTES = 4 * NUM_VIDEOS * la_loss.DIM
# Collectives in a run of a program: in a step at most one for each of the 20 normalization layers
# in either direction, and a few for loss, gradient and bank; in K-means one per pass over points.
MAX_COLLECTIVES = {"ir": 60, "la": 60, "la_own-kmeans": 25}


def _config(batch_size):
    config = settings.paper()
    config.model.width, config.clip.side, config.clip.num_frames = 8, 32, 8
    config.ir.batch_size = config.la.batch_size = batch_size
    return config


def _check(program, target):
    report = bench.compiled(program, target, effort=-1)
    assert report.fits
    assert report.largest_collective < BANK_BYTES / 2
    assert sum(report.collectives.values()) <= MAX_COLLECTIVES[program.name]
    shard = f"[{-(-NUM_VIDEOS // report.num_devices)},{la_loss.DIM}]"
    assert not any(shard in shape for _, shape in report.copies)
    # kernels of convolutions and their momentum are updated in place
    assert not any("f32[3,3,3," in shape for _, shape in report.copies)


def _skip_without_compiler(target):
    if not _targets.is_installed(target):
        pytest.skip(f"no compiler for {target}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name,target,batch_size",
    [
        ("la_own-kmeans", "v5e:2x4", 256),
        ("la_own-kmeans", "v5e:16x16", 256),
        ("la_own-kmeans", "h100x8", 256),
        ("ir", "h100x8", 256),
        ("la", "h100x8", 256),
        ("la", "v5e:2x4", 256),  # a minute
        ("ir", "v5e:16x16", 2048),  # a minute
    ],
)
def test_program_fits_and_leaves_the_bank_where_it_is(name, target, batch_size):
    _skip_without_compiler(target)
    (program,) = bench.programs(_config(batch_size), target, NUM_VIDEOS, only=[name])
    _check(program, target)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ir", "la"])
@pytest.mark.parametrize(
    "target,batch_size", [("v5e:2x4", 256), ("v5e:16x16", 2048), ("h100x8", 256)]
)
def test_loss_fits_and_leaves_the_bank_where_it_is(target, batch_size, name):
    """Without the network, whose compilation takes a minute."""
    _skip_without_compiler(target)
    mesh = _targets.target(target).mesh

    def array(spec, *shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    def recognition(embedding, bank, labels, index):
        return instance_recognition.sampled_softmax(
            embedding,
            bank,
            index,
            jax.random.key(0),
            num_rows=NUM_VIDEOS,
            num_negatives=4096,
            temperature=0.07,
            mesh=mesh,
        ).mean()

    rows = -(-NUM_VIDEOS // mesh.size) * mesh.size
    arguments = (
        array(P(sharding.AXIS), batch_size, la_loss.DIM),
        array(P(sharding.AXIS), rows, la_loss.DIM),
        array(P(None, sharding.AXIS), la_loss.NUM_RUNS, rows, dtype=jnp.int32),
        array(P(sharding.AXIS), batch_size, dtype=jnp.int32),
    )
    loss = {"ir": recognition, "la": functools.partial(la_loss.mean_loss, mesh=mesh)}[name]
    _check(bench.Program(name, jax.jit(jax.value_and_grad(loss)).lower(*arguments)), target)


def _placed(tree, mesh, *spec):
    sharding = NamedSharding(mesh, P(*spec))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _mixture():
    ones = np.ones((NUM_COMPONENTS, NUM_DIMS))
    return mixture.Mixture(ones[:, 0] / NUM_COMPONENTS, ones, ones)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["v5e:2x4", "h100x8"])
def test_fit_of_the_mixture_exchanges_sums_and_no_rows(target):
    _skip_without_compiler(target)
    devices = _targets.target(target).mesh
    mesh = jax.sharding.Mesh(devices.devices, (gmm._AXIS,), axis_types=devices.axis_types)
    blocks = np.zeros((gmm._BLOCKS, gmm._BLOCK_ROWS, NUM_DIMS), np.float32)
    lowered = gmm._chunk_statistics.lower(
        _placed(blocks, mesh, gmm._AXIS),
        _placed(np.zeros(gmm._BLOCKS, np.int32), mesh, gmm._AXIS),
        _placed(mixture.density(_mixture()), mesh),
        mesh,
    )
    report = bench.compiled(bench.Program("gmm", lowered), target, effort=-1)
    # sums of all blocks, which are added in a fixed order
    sums = 4 * gmm._BLOCKS * (NUM_COMPONENTS * (2 * NUM_DIMS + 1) + 1)
    assert 0 < report.largest_collective <= sums < blocks.nbytes / 2


@pytest.mark.slow
@pytest.mark.parametrize("target", ["v5e:2x4", "h100x8"])
def test_fisher_vectors_take_few_operations_per_row(target):
    _skip_without_compiler(target)
    mesh = _targets.target(target).mesh
    encoder = encode.prepare(_mixture(), "paper")
    num_blocks, num_rows = encode._ACCELERATOR_BLOCKS
    flags = np.zeros(num_blocks, bool)
    rows = np.zeros((num_blocks, num_rows, NUM_DIMS), np.float32)
    blocks = encode._Blocks(rows, np.zeros(num_blocks, np.int32), flags, flags)
    arguments = _placed(((encoder,), (encode._start(encoder),), blocks), mesh)
    program = bench.Program("fisher", encode._advance.lower(*arguments))
    report = bench.compiled(program, target, effort=-1)
    assert 8192 * report.launches / (num_blocks * num_rows) < 150
    assert not report.collectives


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
