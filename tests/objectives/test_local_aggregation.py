import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vcjax.clustering import kmeans
from vcjax.objectives import local_aggregation, top_k
from vcjax.runtime import sharding

TEMPERATURE = 0.07


def _unit(key, *shape):
    x = np.asarray(jax.random.normal(jax.random.key(key), shape))
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _reference(embedding, bank, labels, index, num_background):
    """Loss and gradient in float64, B_i by sorting."""
    embedding, bank = embedding.astype(np.float64), bank.astype(np.float64)
    losses, gradients = [], []
    for d, i in zip(embedding, index, strict=True):
        similarity = bank @ d
        kth = np.sort(similarity)[::-1][min(num_background, len(bank)) - 1]
        background = similarity >= kth
        close = (labels[:, i, None] == labels).any(axis=0)
        p = np.where(background, np.exp((similarity - similarity.max()) / TEMPERATURE), 0)
        share = p[close].sum() / p.sum()
        losses.append(-np.log(share + 1e-7))
        # d share / d s_j = p_j (close_j - share) / (sum p * temperature)
        slope = p * (close - share) / p.sum() / TEMPERATURE
        gradients.append(-(slope @ bank) / (share + 1e-7))
    return np.array(losses), np.array(gradients)


def _ours(embedding, bank, labels, index, num_background, mesh=None, **approximate):
    def total(embedding, bank):
        losses, has_close = local_aggregation.loss(
            embedding,
            bank,
            labels,
            index,
            num_background=num_background,
            temperature=TEMPERATURE,
            mesh=mesh,
            **approximate,
        )
        return losses.sum(), (losses, has_close)

    return jax.jit(jax.grad(total, has_aux=True))(jnp.asarray(embedding), bank)


@pytest.mark.parametrize("num_background", [1, 7, 32, 300, 4096])
def test_loss_and_gradient_are_those_of_a_sorted_float64_reference(num_background):
    embedding, bank = _unit(0, 6, 16), _unit(1, 300, 16)
    labels = np.random.default_rng(0).integers(5, size=(3, 300)).astype(np.int32)
    index = np.array([0, 5, 5, 299, 100, 7])
    gradient, (losses, _) = _ours(embedding, bank, labels, index, num_background)
    expected, expected_gradient = _reference(embedding, bank, labels, index, num_background)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_devices", [None, 1, 2, 8])
def test_fifty_thousand_rows_on_any_number_of_devices(num_devices, monkeypatch):
    """More rows than the sample that bounds the threshold, a last row that pads, several chunks."""
    monkeypatch.setattr(local_aggregation, "_PART_BYTES", 1 << 20)
    embedding, bank = _unit(0, 11, 8), _unit(1, 49_999, 8)
    labels = np.random.default_rng(1).integers(40, size=(3, 49_999)).astype(np.int32)
    labels[:, 7] = 40  # a cluster of one
    index = np.array([3, 49_998, 9, 9, 7, 5, 6, 1, 2, 10, 11])
    rows = np.pad(bank, ((0, 1), (0, 0)))
    devices = num_devices and sharding.make(num_devices)
    if devices:
        rows = jax.device_put(rows, sharding.rows(devices))
    gradient, (losses, has_close) = _ours(embedding, rows, labels, index, 4096, devices)
    expected, expected_gradient = _reference(embedding, bank, labels, index, 4096)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-5)
    assert has_close.tolist() == [i != 4 for i in range(11)]


@pytest.mark.parametrize("num_devices", [None, 8])
@pytest.mark.parametrize("num_background", [1, 9, 40, 500])
def test_fast_form_is_the_reference_with_ties_and_unlabeled_rows(num_background, num_devices):
    """Rows come in groups of four equal ones, every seventh is unlabeled, and six are padding."""
    embedding, bank = _unit(0, 5, 8), np.repeat(_unit(1, 50, 8), 4, axis=0)
    embedding[0] = bank[0]
    labels = np.random.default_rng(2).integers(6, size=(3, 194)).astype(np.int32)
    labels[:, ::7] = kmeans.UNLABELLED
    labels[:, 2] = 6  # a cluster of one
    index = np.array([1, 2, 2, 193, 100])
    devices = num_devices and sharding.make(num_devices)
    rows = sharding.shard_rows(bank, devices) if devices else bank
    gradient, (losses, has_close) = _ours(embedding, rows, labels, index, num_background, devices)

    def total(embedding):
        losses, has_close = local_aggregation.reference_loss(
            embedding,
            jnp.asarray(bank),
            labels,
            index,
            num_background=num_background,
            temperature=TEMPERATURE,
        )
        return losses.sum(), (losses, has_close)

    expected, (losses_expected, has_close_expected) = jax.grad(total, has_aux=True)(
        jnp.asarray(embedding)
    )
    np.testing.assert_allclose(losses, losses_expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=2e-5)
    np.testing.assert_array_equal(has_close, has_close_expected)


@pytest.mark.parametrize(
    "num_clips,num_rows,expected",
    [
        (256, 29_375, 256),  # Kinetics on eight devices: all at once
        (2048, 29_375, 1024),  # of at most 2030
        (2048, 391_000, 147),  # of at most 152
        (2048, 12_500_000, 64),  # d / 2
        (5, 12_500_000, 5),
    ],
)
def test_clips_are_compared_in_few_equal_chunks(num_clips, num_rows, expected):
    assert local_aggregation.clips_at_a_time(num_clips, 128, num_rows) == expected


@pytest.mark.parametrize("num_rows", [7, 512, 3000])
def test_sums_of_every_platform_are_those_of_float64(num_rows):
    values = [np.abs(_unit(i, 3, num_rows)) for i in range(3)]
    for form in (local_aggregation._blockwise_sums, local_aggregation._plain_sums):
        for ours, array in zip(form(*map(jnp.asarray, values)), values, strict=True):
            np.testing.assert_allclose(ours, array.sum(axis=1, dtype=np.float64), rtol=1e-5)


def test_bound_is_that_of_sort_with_ties_and_signs():
    values = np.random.default_rng(0).normal(size=(5, 40_000)).astype(np.float32)
    values[0] = 0.25
    values[1, :30_000] = values[1, 30_000]
    values[2] = -np.abs(values[2])
    values[3, ::3] = 0  # the sample that bounds the threshold holds nothing else
    for columns in (values[:, :200], values):
        for k in (1, 2, 50, 199, 200, 30_000, 40_000):
            last = np.sort(columns, axis=1)[:, ::-1][:, min(k, columns.shape[1]) - 1]
            bound = jax.jit(top_k.kth_largest, static_argnums=1)(columns, k)
            np.testing.assert_array_equal(columns >= bound[:, None], columns >= last[:, None])


@pytest.mark.parametrize("num_devices", [None, 8])
def test_padding_is_never_background(num_devices):
    """Five rows, all dissimilar, and three of zeros that pad them: all five are background."""
    embedding = np.array([[1.0, 0.0]], np.float32)
    bank = np.array([[-1.0, 0.0]] * 5 + [[0.0, 0.0]] * 3, np.float32)
    devices = num_devices and sharding.make(num_devices)
    labels = np.array([[0, 0, 1, 1, 1]], np.int32)
    _, (losses, _) = _ours(embedding, bank, labels, np.array([0]), 4096, devices)
    np.testing.assert_allclose(losses, -np.log(2 / 5), rtol=1e-5)


def test_loss_is_zero_when_all_background_is_close():
    embedding, bank = _unit(0, 3, 8), _unit(1, 40, 8)
    gradient, (losses, has_close) = _ours(
        embedding, bank, np.zeros((1, 40), np.int32), np.arange(3), 10
    )
    np.testing.assert_allclose(losses, 0, atol=1e-5)
    assert has_close.all() and np.abs(gradient).max() < 1e-4


def test_clip_whose_close_neighbors_are_far_has_a_constant_loss_and_no_gradient():
    embedding = np.array([[1.0, 0.0]], np.float32)
    bank = np.array([[1.0, 0.0], [0.8, 0.6], [-1.0, 0.0]], np.float32)
    gradient, (losses, has_close) = _ours(
        embedding, bank, np.array([[0, 0, 1]], np.int32), np.array([2]), 2
    )
    np.testing.assert_allclose(losses, 16.118, atol=1e-3)
    assert not has_close.any() and not np.asarray(gradient).any()


def test_equal_similarities_all_belong_to_the_background():
    bank = np.repeat(_unit(0, 1, 4), 12, axis=0)
    labels = np.array([[0] * 3 + [1] * 9], np.int32)
    _, (losses, _) = _ours(_unit(1, 1, 4), bank, labels, np.array([0]), 2)
    np.testing.assert_allclose(losses, -np.log(3 / 12), rtol=1e-4)
