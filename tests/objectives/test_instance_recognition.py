import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vcjax.objectives import instance_recognition as ir

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
