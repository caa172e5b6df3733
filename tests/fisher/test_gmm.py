import jax
import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

import fisher
from fisher.mixture import Mixture


@pytest.fixture(scope="module")
def points():
    generator = np.random.default_rng(0)
    centers = 4 * generator.normal(size=(5, 6))
    x = centers[generator.integers(5, size=2500)] + generator.normal(size=(2500, 6))
    return (x * generator.uniform(0.5, 2, 6) + 3).astype(np.float32)


def test_scikit_learn_reaches_the_same_mixture_from_the_same_start(points):
    means = points[np.random.default_rng(1).choice(2500, 5, replace=False)].astype(np.float64)
    start = Mixture(np.full(5, 0.2), means, np.tile(points.var(axis=0), (5, 1)))
    ours = fisher.GMM(5, tolerance=1e-7, max_iterations=500).fit(points, start)
    theirs = GaussianMixture(
        5, covariance_type="diag", tol=1e-9, max_iter=1000, weights_init=start.weights,
        means_init=means, precisions_init=1 / start.variances,
    ).fit(points.astype(np.float64))  # fmt: skip
    np.testing.assert_allclose(ours.log_likelihood_, theirs.score(points), rtol=1e-5)
    np.testing.assert_allclose(ours.weights_, theirs.weights_, rtol=2e-3)
    np.testing.assert_allclose(ours.means_, theirs.means_, rtol=1e-3, atol=5e-3)
    np.testing.assert_allclose(ours.covariances_, theirs.covariances_, rtol=5e-3)
    np.testing.assert_allclose(ours.posterior(points), theirs.predict_proba(points), atol=5e-3)


def test_one_iteration_by_hand():
    # far apart: each row belongs to one component, so means and variances are those of the pairs
    x = np.array([[0.0], [2.0], [100.0], [106.0]], np.float32)
    start = Mixture(np.array([0.5, 0.5]), np.array([[1.0], [103.0]]), np.ones((2, 1)))
    gmm = fisher.GMM(2, max_iterations=1).fit(x, start)
    np.testing.assert_allclose(gmm.weights_, [0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(gmm.means_, [[1], [103]], rtol=1e-5)
    np.testing.assert_allclose(gmm.covariances_, [[1], [9]], rtol=1e-3)


def test_log_likelihood_never_falls(points):
    scores = [
        fisher.GMM(5, max_iterations=n, tolerance=-np.inf, start="random").fit(points)
        for n in range(1, 12)
    ]
    assert (np.diff([gmm.log_likelihood_ for gmm in scores]) > -1e-5).all()
    assert scores[-1].score(points) == pytest.approx(scores[-1].log_likelihood_, rel=1e-6)


def test_the_best_of_several_starts_is_kept(points):
    worse, better = (fisher.GMM(5, seed, start="random").fit(points) for seed in (2, 3))
    assert better.log_likelihood_ > worse.log_likelihood_ + 0.5
    best = fisher.GMM(5, 2, start="random", num_starts=2).fit(points)
    np.testing.assert_array_equal(best.means_, better.means_)


def test_seeds_repeat_and_differ(points):
    first, again, other = (fisher.GMM(7, seed).fit(points) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.means_, again.means_)
    np.testing.assert_array_equal(first.covariances_, again.covariances_)
    assert not np.allclose(first.means_, other.means_)


@pytest.mark.parametrize("start", ["kmeans++", "random"])
def test_a_stream_gives_the_same_mixture_as_an_array(points, start):
    pieces = lambda: (points[begin : begin + 700] for begin in range(0, 2500, 700))  # noqa: E731
    stream, array = (fisher.GMM(5, start=start).fit(x) for x in (pieces, points))
    np.testing.assert_allclose(stream.means_, array.means_, rtol=1e-6)
    np.testing.assert_allclose(stream.covariances_, array.covariances_, rtol=1e-6)


def test_a_chunk_more_of_rows_changes_nothing_but_the_rounding(points):
    many = np.tile(points, (30, 1))  # more rows than one chunk holds
    start = Mixture(np.full(5, 0.2), points[:5].astype(np.float64), np.full((5, 6), 4.0))
    once, often = (fisher.GMM(5, max_iterations=3).fit(x, start) for x in (points, many))
    np.testing.assert_allclose(often.means_, once.means_, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(often.log_likelihood_, once.log_likelihood_, rtol=1e-5)


@pytest.mark.parametrize("num_devices", [2, 8])
def test_any_number_of_devices_gives_the_same_mixture(points, num_devices):
    devices = jax.devices()[:num_devices]
    mesh = jax.make_mesh((num_devices,), ("data",), (jax.sharding.AxisType.Auto,), devices=devices)
    one, many = fisher.GMM(6).fit(points), fisher.GMM(6, mesh=mesh).fit(points)
    np.testing.assert_allclose(many.means_, one.means_, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(many.covariances_, one.covariances_, rtol=1e-6)
    np.testing.assert_allclose(many.weights_, one.weights_, rtol=1e-6)


def test_variances_stay_above_their_floor(points):
    x = points.copy()
    x[:900] = x[0]  # a component will want to shrink onto these
    gmm = fisher.GMM(8, variance_floor=1e-2).fit(x)
    floor = 1e-2 * x.var(axis=0)
    assert (gmm.covariances_ >= 0.999 * floor).all()
    assert (gmm.covariances_ < 1.01 * floor).any()


def test_constant_columns_are_fitted(points):
    x = np.concatenate([points, np.ones((2500, 1), np.float32)], axis=1)
    gmm = fisher.GMM(5).fit(x)
    assert (gmm.covariances_ > 0).all() and np.isfinite(fisher.encode(x, gmm)).all()


def test_a_component_without_rows_is_revived(points):
    means = points[:5].astype(np.float64)
    means[2] = 1e4  # where no row is
    start = Mixture(np.full(5, 0.2), means, np.tile(points.var(axis=0), (5, 1)))
    revived = fisher.GMM(5, max_iterations=1).fit(points, start)
    assert (revived.weights_ > 0.01).all()
    assert (revived.weights_ == revived.weights_[2]).sum() == 2  # it and the one it was half of
    # where it ends may hang on rounding, but not without rows, nor where there are none
    gmm = fisher.GMM(5).fit(points, start)
    assert (gmm.weights_ * len(points) > 1).all()
    assert np.abs(gmm.means_).max() <= np.abs(points).max()


def test_what_cannot_be_fitted_is_refused(points):
    with pytest.raises(ValueError, match="9 components need at least as many rows, not 4"):
        fisher.GMM(9).fit(points[:4])
    bad = points.copy()
    bad[1700, 2] = np.nan
    with pytest.raises(ValueError, match="row 1700 has a value that is not finite"):
        fisher.GMM(3).fit(bad)
    with pytest.raises(ValueError, match="no rows"):
        fisher.GMM(3).fit(points[:0])
    with pytest.raises(ValueError, match="use kmeans"):
        fisher.GMM(3, start="other")
