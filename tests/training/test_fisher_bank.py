"""A memory bank of Fisher vectors: its rows, and training against them."""

import jax
import numpy as np
import pytest

from fisher.vectors import FisherVectors
from vcjax import settings
from vcjax.objectives import memory_bank
from vcjax.runtime import sharding
from vcjax.training import fisher_bank


def _vectors(num_videos, dim):
    generator = np.random.default_rng(1)
    vectors = (generator.normal(size=(num_videos, dim)) + 0.5).astype(np.float32)
    vectors *= np.geomspace(1, 0.1, dim, dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    has_vector = np.arange(num_videos) % 5 != 3
    ids = tuple(f"v{i}" for i in range(num_videos))
    return FisherVectors(ids, vectors * has_vector[:, None], has_vector)


@pytest.mark.parametrize("dim", [6, 40])
@pytest.mark.parametrize("num_devices", [1, 8])
def test_rows_have_the_cosines_of_the_principal_coordinates(num_devices, dim):
    """`dim` is less or more than the 20 dimensions of the vectors."""
    devices, vectors = sharding.make(num_devices), _vectors(37, 20)
    bank = memory_bank.init(jax.random.key(0), 37, dim, mesh=devices)
    rows = np.asarray(fisher_bank.fill(bank, vectors, devices))
    has_vector = vectors.has_vector
    centered = vectors.vectors[has_vector].astype(np.float64)
    centered -= centered.mean(axis=0)
    u, s, _ = np.linalg.svd(centered, full_matrices=False)
    expected = (u * s)[:, :dim]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    ours = rows[:37][has_vector]
    np.testing.assert_allclose(ours @ ours.T, expected @ expected.T, atol=1e-5)
    without = ~np.pad(has_vector, (0, len(rows) - 37))
    np.testing.assert_array_equal(rows[without], np.asarray(bank)[without])


def test_bank_of_fisher_vectors_needs_their_clusters():
    config = settings.paper()
    config.tune.bank = "fisher"
    with pytest.raises(settings.SettingsError, match="tune.source=idt"):
        settings.resolve(config, "tune", 1000)
