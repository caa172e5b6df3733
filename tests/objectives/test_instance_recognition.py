import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vcjax.objectives import instance_recognition as ir
from vcjax.runtime import sharding

KEY = jax.random.key(5)
OPTIONS = {"num_rows": 50, "temperature": 0.07}


@pytest.fixture
def unit():
    def make(seed, *shape):
        x = np.random.default_rng(seed).normal(size=shape)
        return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)

    return make


def _drawn(num_negatives):
    return np.asarray(jax.random.randint(KEY, (3, num_negatives), 0, 50))


def _reference(name, embedding, bank, index, num_negatives):
    s = embedding.astype(np.float64) @ bank.astype(np.float64).T / 0.07
    own = s[np.arange(3), index]
    if name == "full_softmax":
        return np.log(np.exp(s[:, :50]).sum(1)) - own
    noise = np.take_along_axis(s, _drawn(num_negatives), axis=1)
    if name == "sampled_softmax":
        return np.log(np.exp(own) + np.exp(noise).sum(1)) - own
    z, prior = 2876934.2 * 50 / 1281167, num_negatives / 50
    data, noise = np.exp(own) / z, np.exp(noise) / z
    return -(
        np.log(data / (data + prior + 1e-7)) + np.log(prior / (noise + prior + 1e-7)).sum(axis=1)
    )


@pytest.mark.parametrize("name", ["full_softmax", "sampled_softmax", "nce"])
def test_loss_and_gradient_are_those_of_float64(name, unit):
    embedding, bank, index = unit(0, 3, 8), unit(1, 50, 8), np.array([4, 0, 49])
    padded = np.concatenate([bank, np.zeros((6, 8), np.float32)])  # rows that do not count
    options = OPTIONS | ({} if name == "full_softmax" else {"num_negatives": 20})

    def total(embedding):
        losses = ir.ESTIMATORS[name](embedding, padded, index, KEY, **options)
        return losses.sum(), losses

    gradient, losses = jax.grad(total, has_aux=True)(jnp.asarray(embedding))
    np.testing.assert_allclose(losses, _reference(name, embedding, bank, index, 20), rtol=2e-5)
    for axis in range(8):  # central differences in float64
        step = np.zeros(8)
        step[axis] = 1e-5
        up, down = (
            _reference(name, embedding.astype(np.float64) + s, bank, index, 20)
            for s in (step, -step)
        )
        np.testing.assert_allclose(gradient[:, axis], (up - down) / 2e-5, rtol=1e-3, atol=2e-3)


def test_released_constant_is_that_of_imagenet(unit):
    embedding, bank, index = unit(0, 3, 8), unit(1, 50, 8), np.array([4, 0, 49])
    with_imagenet_size = ir.nce(
        embedding, bank, index, KEY, num_negatives=20, scale_constant=False, **OPTIONS
    )
    s = embedding.astype(np.float64) @ bank.T / 0.07
    data = np.exp(s[np.arange(3), index]) / 2876934.2
    noise = np.exp(np.take_along_axis(s, _drawn(20), axis=1)) / 2876934.2
    expected = -(np.log(data / (data + 0.4 + 1e-7)) + np.log(0.4 / (noise + 0.4 + 1e-7)).sum(1))
    np.testing.assert_allclose(with_imagenet_size, expected, rtol=2e-5)


def test_gradient_does_not_reach_the_bank(unit):
    bank = jnp.asarray(unit(1, 50, 8))
    for name, estimator in ir.ESTIMATORS.items():
        options = OPTIONS | ({} if name == "full_softmax" else {"num_negatives": 20})
        gradient = jax.grad(
            lambda b, e=estimator, o=options: e(unit(0, 3, 8), b, np.arange(3), KEY, **o).sum()
        )(bank)
        assert not gradient.any()


def _sharded_inputs(unit, num_clips, num_rows, dim):
    devices = sharding.make(8)
    rows = sharding.shard_rows(unit(1, num_rows, dim), devices)
    embedding = jnp.asarray(unit(0, num_clips, dim))
    index = jnp.asarray(np.random.default_rng(2).permutation(num_rows)[:num_clips])
    if num_clips % 8 == 0:
        embedding, index = jax.device_put((embedding, index), sharding.rows(devices))
    return embedding, rows, index, devices


def _loss_and_gradient(name, embedding, bank, index, num_rows, num_negatives, devices):
    def total(embedding, bank, index):
        losses = ir.ESTIMATORS[name](
            embedding,
            bank,
            index,
            KEY,
            num_rows=num_rows,
            num_negatives=num_negatives,
            temperature=0.07,
            mesh=devices,
        )
        return losses.mean(), losses

    return jax.jit(jax.grad(total, has_aux=True)).lower(embedding, bank, index).compile()


@pytest.mark.parametrize("num_clips", [16, 5])
@pytest.mark.parametrize("num_rows", [1003, 17])  # with 17, two devices hold padding only
@pytest.mark.parametrize("name", ["sampled_softmax", "nce"])
def test_bank_on_eight_devices_gives_the_losses_and_gradients_of_one(
    name, num_rows, num_clips, unit, monkeypatch
):
    monkeypatch.setattr(ir, "_CHUNK", 64)  # several chunks, of which most devices skip some
    embedding, rows, index, devices = _sharded_inputs(unit, num_clips, num_rows, 12)
    arguments = embedding, rows, index
    gradient, losses = _loss_and_gradient(name, *arguments, num_rows, 50, devices)(*arguments)
    arguments = [np.asarray(x) for x in arguments]
    expected, expected_losses = _loss_and_gradient(name, *arguments, num_rows, 50, None)(*arguments)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["sampled_softmax", "nce"])
def test_devices_exchange_no_more_than_the_similarities(name, unit):
    num_clips, num_negatives, dim = 16, 63, 12
    embedding, rows, index, devices = _sharded_inputs(unit, num_clips, 4000, dim)
    program = _loss_and_gradient(name, embedding, rows, index, 4000, num_negatives, devices)
    collectives = re.findall(
        r"= (.*?) (?:all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)",
        program.as_text(),
    )
    sizes = [
        np.prod([int(n) for n in shape.split(",") if n])
        for result in collectives
        for shape in re.findall(r"\w\[([\d,]*)\]", result)
    ]
    assert num_clips * dim <= max(sizes) <= num_clips * (1 + num_negatives)
