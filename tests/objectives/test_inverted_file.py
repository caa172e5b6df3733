import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vcjax.clustering import kmeans
from vcjax.objectives import inverted_file, local_aggregation
from vcjax.runtime import sharding

NUM_BACKGROUND = 100


@pytest.fixture(scope="module")
def bank():
    """Unit rows around centers, as training makes them, and two clips near some."""
    generator = np.random.default_rng(0)
    centers = generator.normal(size=(25, 16)).repeat(40, axis=0)
    rows = centers + 0.4 * generator.normal(size=centers.shape)
    rows = rows[generator.permutation(len(rows))].astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _cells(bank, devices):
    found = kmeans.fit(bank, num_clusters=20, seed=0, mesh=devices)
    return inverted_file.make(found.centroids, found.labels, devices), np.asarray(found.labels)


def _loss(bank, devices, **approximate):
    labels = np.random.default_rng(1).integers(9, size=(3, len(bank))).astype(np.int32)
    index = np.array([0, 5, 5, 999])

    def total(embedding, bank, cells):
        losses, has_close = local_aggregation.loss(
            embedding,
            bank,
            labels,
            index,
            num_background=NUM_BACKGROUND,
            temperature=0.07,
            mesh=devices,
            cells=cells,
            num_candidates=approximate.get("num_candidates", 0),
        )
        return losses.sum(), losses

    rows = sharding.shard_rows(bank, devices)
    gradient, losses = jax.jit(jax.grad(total, has_aux=True))(
        jnp.asarray(bank[[3, 7, 500, 999]] + 0.0), rows, approximate.get("cells")
    )
    return np.asarray(losses), np.asarray(gradient)


@pytest.mark.parametrize("num_devices", [1, 8])
def test_candidates_are_all_rows_of_the_nearest_cells(bank, num_devices):
    devices = sharding.make(num_devices)
    cells, labels = _cells(bank, devices)
    clips, count = bank[[3, 500]], 15
    distance = np.square(clips[:, None] - np.asarray(cells.centroids)[None]).sum(-1)
    per_device = len(bank) // num_devices
    for device in range(num_devices):
        local = inverted_file.InvertedFile(
            cells.centroids,
            jnp.asarray(labels),
            jnp.asarray(np.asarray(cells.order)[device * per_device : (device + 1) * per_device]),
            cells.ends[device : device + 1],
        )
        rows, there = inverted_file.probe(jnp.asarray(clips), local, count)
        assert bool(there.all())
        for clip, found in enumerate(np.asarray(rows)):
            assert len(set(found)) == count
            here = labels[device * per_device : (device + 1) * per_device]
            by_cell = [np.flatnonzero(here == cell) for cell in np.argsort(distance[clip])]
            assert found.tolist() == np.concatenate(by_cell)[:count].tolist()


@pytest.mark.parametrize("num_devices", [1, 8])
def test_as_many_candidates_as_rows_are_exact(bank, num_devices):
    devices = sharding.make(num_devices)
    exact = _loss(bank, devices)
    cells, _ = _cells(bank, devices)
    found = _loss(bank, devices, cells=cells, num_candidates=len(bank))
    for a, b in zip(found, exact, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_four_times_the_background_hold_nearly_all_of_it(bank):
    devices = sharding.make(1)
    cells, _ = _cells(bank, devices)
    rows, _ = inverted_file.probe(jnp.asarray(bank), cells, 4 * NUM_BACKGROUND)
    asked = np.linspace(0, 999, 64).astype(int)
    nearest = np.argsort(-(bank[asked] @ bank.T), axis=1)[:, :NUM_BACKGROUND]
    shared = [len(set(a) & set(b)) for a, b in zip(np.asarray(rows)[asked], nearest, strict=True)]
    recall = inverted_file.recall(
        sharding.shard_rows(bank, devices),
        cells,
        num_rows=1000,
        num_background=NUM_BACKGROUND,
        num_candidates=4 * NUM_BACKGROUND,
        mesh=devices,
    )
    assert recall > 0.95
    np.testing.assert_allclose(recall, np.mean(shared) / NUM_BACKGROUND, atol=1e-3)
    losses, _ = _loss(bank, devices, cells=cells, num_candidates=4 * NUM_BACKGROUND)
    np.testing.assert_allclose(losses, _loss(bank, devices)[0], atol=0.05)


def test_rows_without_a_cell_are_no_candidates(bank):
    devices = sharding.make(1)
    labels = jnp.array([0, 1, kmeans.UNLABELLED, 7, 1])
    cells = inverted_file.make(jnp.asarray(bank[:2]), labels, devices)
    rows, there = inverted_file.probe(jnp.asarray(bank[:1]), cells, 5)
    assert np.asarray(rows)[0, :3].tolist() == [0, 1, 4]
    assert there[0].tolist() == [True, True, True, False, False]
