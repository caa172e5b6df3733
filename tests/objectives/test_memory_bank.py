import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vcjax.objectives import memory_bank
from vcjax.runtime import sharding


@pytest.mark.parametrize("num_devices", [1, 2, 8])
def test_rows_are_the_same_on_any_number_of_devices(num_devices):
    def rows(num_devices):
        bank = memory_bank.init(jax.random.key(3), 21, 5, mesh=sharding.make(num_devices))
        embedding = jax.random.normal(jax.random.key(4), (4, 5))
        embedding /= jnp.linalg.norm(embedding, axis=1, keepdims=True)
        index = jnp.array([0, 20, 7, 20])
        return jax.jit(lambda b: memory_bank.update(b, index, embedding, momentum=0.5))(bank)[:21]

    np.testing.assert_allclose(rows(num_devices), rows(1), atol=1e-6)


def test_first_rows_are_unit_and_padding_is_zero():
    bank = memory_bank.init(jax.random.key(0), 13, 6, mesh=sharding.make(8))
    assert bank.shape == (16, 6) and len(bank.sharding.device_set) == 8
    np.testing.assert_allclose(jnp.linalg.norm(bank[:13], axis=1), 1.0, rtol=1e-6)
    assert not bank[13:].any()


def test_update_by_hand():
    bank = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    embedding = jnp.array([[0.0, 1.0], [1.0, 0.0]])
    moved = memory_bank.update(bank, jnp.array([0, 2]), embedding, momentum=0.5)
    half = np.sqrt(0.5)
    mixed = np.array([0.8, 0.4]) / np.linalg.norm([0.8, 0.4])
    np.testing.assert_allclose(moved, [[half, half], [0, 1], mixed], rtol=1e-6)


def test_row_twice_in_a_batch_moves_to_the_mean_of_both():
    bank = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    embedding = jnp.array([[0.0, 1.0], [1.0, 0.0]])
    moved = memory_bank.update(bank, jnp.array([0, 0]), embedding, momentum=0.5)
    expected = np.array([0.75, 0.25]) / np.linalg.norm([0.75, 0.25])
    np.testing.assert_allclose(moved[0], expected, rtol=1e-6)


def test_half_precision_is_that_of_a_rounding_and_does_not_drift():
    embedding = jax.random.normal(jax.random.key(5), (50, 7, 6))
    embedding /= jnp.linalg.norm(embedding, axis=-1, keepdims=True)
    full = memory_bank.init(jax.random.key(0), 13, 6, mesh=sharding.make(1))
    half = memory_bank.init(jax.random.key(0), 13, 6, dtype=jnp.bfloat16, mesh=sharding.make(1))
    for batch in embedding:
        full = memory_bank.update(full, jnp.arange(7), batch, momentum=0.5)
        half = memory_bank.update(half, jnp.arange(7), batch, momentum=0.5)
    assert half.dtype == jnp.bfloat16 and half.nbytes * 2 == full.nbytes
    # an error of half of 2^-8 a step, of which the momentum keeps half
    np.testing.assert_allclose(half.astype(jnp.float32), full, atol=2**-8)
