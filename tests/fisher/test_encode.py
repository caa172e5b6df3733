import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.feature
from sklearn.mixture import GaussianMixture

import fisher


def transcribed(x, gmm, variant):
    """Eq. 5 and 6 row by row, component by component, in float64."""
    x, weights, means = x.astype(np.float64), gmm.weights_, gmm.means_
    deviations = np.sqrt(gmm.covariances_)
    log_joint = np.log(weights) - 0.5 * (
        ((x[:, None] - means) / deviations) ** 2 + np.log(2 * np.pi * deviations**2)
    ).sum(axis=2)
    posterior = np.exp(log_joint - log_joint.max(axis=1, keepdims=True))
    posterior /= posterior.sum(axis=1, keepdims=True)
    parts = []
    for k in range(len(weights)):
        p, offset = posterior[:, k, None], x - means[k]
        if variant == "paper":
            first = p * offset / deviations[k] / np.sqrt(weights[k])
            second = p * (offset**2 / deviations[k] ** 2 - 1) / np.sqrt(2 * weights[k])
        else:
            first, second = (
                p * offset,
                p * (deviations[k] ** 2 - offset**2),
            )
        parts += [first.mean(axis=0), second.mean(axis=0)]
    return np.concatenate(parts)


def error(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("seed", range(5))
def test_the_fast_form_equals_the_reference_on_random_mixtures(seed):
    generator = np.random.default_rng(seed)
    num_rows, num_components, num_dims = generator.integers([1, 1, 1], [1500, 12, 40])
    gmm = fisher.GMM(int(num_components))
    gmm.weights_ = generator.dirichlet(np.full(num_components, 2.0))
    gmm.means_ = generator.normal(size=(num_components, num_dims))
    gmm.covariances_ = generator.uniform(0.2, 3.0, (num_components, num_dims))
    x = generator.normal(size=(num_rows, num_dims)).astype(np.float32)
    expected = fisher.reference_fisher_vector(
        x, gmm.weights_, gmm.means_, np.sqrt(gmm.covariances_)
    )
    actual = fisher.encode(x, gmm)
    assert expected.dtype == np.float64 and error(actual, expected) < 1e-5
    normalized = np.sign(expected) * np.sqrt(np.abs(expected))
    normalized /= np.linalg.norm(normalized)
    # the square root magnifies rounding errors of values near 0
    assert error(fisher.normalize(actual), normalized) < 1e-3


def test_the_reference_is_eq_5_and_6_by_hand():
    # one row between two components in one dimension: both posteriors are 1/2
    psi = fisher.reference_fisher_vector(
        np.array([[1.0]]), np.array([0.5, 0.5]), np.array([[0.0], [2.0]]), np.ones((2, 1))
    )
    # p / sqrt(w) = sqrt(1/2); phi = +-1, phi' = 0
    np.testing.assert_allclose(psi, [np.sqrt(0.5), 0, -np.sqrt(0.5), 0], atol=1e-15)
    # one component: phi = (5 - 1) / 2, phi' = 2^2 - 1
    psi = fisher.reference_fisher_vector(
        np.array([[5.0]]), np.array([1.0]), np.array([[1.0]]), np.array([[2.0]])
    )
    np.testing.assert_allclose(psi, [2, 3 / np.sqrt(2)])


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("num_rows", [1, 7, 3000])
def test_both_readings_are_the_formulas(mixture, descriptors, variant, num_rows):
    x = descriptors[:num_rows]
    actual = fisher.encode(x, mixture, variant)
    assert error(actual, transcribed(x, mixture, variant)) < 1e-5


def test_formulas_hold_on_real_trajectories(shared):
    file = np.load(shared / "idt" / "bowling.features.npz")
    x = np.concatenate([file[name] for name in ("trajectory", "hof", "mbhx")], axis=1)
    x = np.asarray(fisher.PCA().fit(x.astype(np.float32)).transform(x))
    gmm = fisher.GMM(8).fit(x)  # of all of x the gradient is next to 0: only of a part it is not
    assert error(fisher.encode(x[:900], gmm), transcribed(x[:900], gmm, "paper")) < 1e-5


def test_scikit_image_agrees_up_to_order_sign_and_the_weights_part(mixture, descriptors):
    theirs = GaussianMixture(mixture.num_components, covariance_type="diag")
    theirs.weights_, theirs.means_ = mixture.weights_, mixture.means_
    theirs.covariances_ = mixture.covariances_
    theirs.precisions_cholesky_ = 1 / np.sqrt(theirs.covariances_)
    x = descriptors[:500].astype(np.float64)
    expected = skimage.feature.fisher_vector(x, theirs, improved=False)
    # theirs: k derivatives in the weights, then all first orders, then all second, negated
    first, second = np.split(expected[mixture.num_components :].reshape(-1, x.shape[1]), 2)
    expected = np.stack([first, -second], axis=1).reshape(-1)
    assert error(fisher.encode(descriptors[:500], mixture), expected) < 1e-5


def test_a_far_offset_of_rows_and_means_changes_little(mixture, descriptors):
    moved = fisher.GMM(mixture.num_components)
    moved.weights_, moved.covariances_ = mixture.weights_, mixture.covariances_
    moved.means_ = mixture.means_ + 64  # exact in float32 beside rows of few digits
    x = np.round(descriptors * 256) / 256
    np.testing.assert_allclose(
        fisher.encode(x + 64, moved), fisher.encode(x, mixture), rtol=1e-3, atol=1e-4
    )


def test_mean_part_is_the_whitened_gradient_of_the_log_likelihood(mixture, descriptors):
    deviations, weights = np.sqrt(mixture.covariances_), mixture.weights_

    def log_likelihood(means):
        scaled = (descriptors[:, None] - means[None]) / deviations[None]
        joint = jnp.log(weights)[None] - (scaled**2 / 2 + jnp.log(deviations)[None]).sum(axis=2)
        return jax.nn.logsumexp(joint, axis=1).mean()

    gradient = jax.grad(log_likelihood)(jnp.asarray(mixture.means_, jnp.float32))
    expected = np.asarray(gradient) * deviations / np.sqrt(weights)[:, None]
    actual = fisher.encode(descriptors, mixture).reshape(len(weights), 2, -1)[:, 0]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_rows_drawn_from_the_mixture_give_almost_nothing(mixture):
    generator = np.random.default_rng(0)
    component = generator.choice(mixture.num_components, 200_000, p=mixture.weights_)
    noise = generator.normal(size=(200_000, mixture.means_.shape[1]))
    x = mixture.means_[component] + noise * np.sqrt(mixture.covariances_[component])
    # each value is a mean of 200,000 terms whose variance is at most 1
    assert np.abs(fisher.encode(x.astype(np.float32), mixture)).max() < 5 / np.sqrt(200_000)


def test_neither_order_nor_repetition_of_rows_matters(mixture, descriptors):
    whole = fisher.encode(descriptors, mixture)
    shuffled = np.random.default_rng(0).permutation(descriptors)
    assert error(fisher.encode(shuffled, mixture), whole) < 1e-6
    assert error(fisher.encode(np.repeat(descriptors, 3, axis=0), mixture), whole) < 1e-6


@pytest.mark.parametrize("size", [1, 1023, 1024, 1025])
def test_pieces_of_a_stream_do_not_matter(mixture, descriptors, size):
    x = descriptors[: 2 * size + 3]
    pieces = lambda: (x[begin : begin + size] for begin in range(0, len(x), size))  # noqa: E731
    np.testing.assert_array_equal(fisher.encode(pieces, mixture), fisher.encode(x, mixture))


def test_a_vector_is_the_mean_of_its_rows_across_blocks(mixture, descriptors):
    parts = [descriptors[:1024], descriptors[1024:2048], descriptors[2048:]]
    vectors = [len(x) * np.asarray(fisher.encode(x, mixture), np.float64) for x in parts]
    assert error(fisher.encode(descriptors, mixture), sum(vectors) / len(descriptors)) < 1e-6


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(mixture, descriptors, value):
    x = descriptors.copy()
    x[1500, 3] = value
    with pytest.raises(ValueError, match="not finite"):
        fisher.encode(x, mixture)


def test_what_has_no_vector_is_refused(mixture, descriptors):
    with pytest.raises(ValueError, match="at least one row"):
        fisher.encode(descriptors[:0], mixture)
    with pytest.raises(ValueError, match="rows of 5 values, not 11"):
        fisher.encode(descriptors[:, :5], mixture)
    with pytest.raises(ValueError, match="use paper or released"):
        fisher.encode(descriptors, mixture, "other")
    with pytest.raises(ValueError, match="call fit first"):
        fisher.encode(descriptors, fisher.GMM(2))


def test_normalize_takes_signed_roots_to_unit_norm():
    np.testing.assert_allclose(
        fisher.normalize(jnp.array([[9.0, -16.0], [0.0, 0.0], [1e-30, 0.0], [-4e30, 4e30]])),
        [[0.6, -0.8], [0, 0], [1, 0], [-np.sqrt(0.5), np.sqrt(0.5)]],
        rtol=1e-6,
    )
