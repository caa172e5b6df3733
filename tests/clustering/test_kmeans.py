import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans

from vcjax.clustering import kmeans
from vcjax.runtime import sharding


@pytest.fixture(scope="module")
def points():
    return make_points()


def make_points():
    generator = np.random.default_rng(0)
    centers = generator.normal(size=(12, 8)) * 2
    return (centers[generator.integers(12, size=500)] + generator.normal(size=(500, 8))).astype(
        np.float32
    )


def test_inertia_and_labels_are_those_of_scikit_learn_from_the_same_start(points):
    ours = kmeans.fit(points, num_clusters=12, num_iterations=60, seed=3)
    first = points[np.random.default_rng(3).permutation(500)[:12]]
    theirs = KMeans(12, init=first, n_init=1, max_iter=200, tol=0, algorithm="lloyd").fit(points)
    np.testing.assert_allclose(ours.inertia[-1], theirs.inertia_, rtol=1e-4)
    np.testing.assert_array_equal(ours.labels, theirs.labels_)


def test_inertia_never_rises(points):
    inertia = np.asarray(kmeans.fit(points, num_clusters=12, seed=0).inertia)
    assert (np.diff(inertia) <= 1e-3 * inertia[0]).all()


@pytest.mark.parametrize("num_devices", [2, 8])
def test_labels_are_those_of_one_device(points, num_devices):
    one = kmeans.fit(points, num_clusters=30, seed=1, mesh=sharding.local(1))
    many = kmeans.fit(points, num_clusters=30, seed=1, mesh=sharding.make(num_devices))
    np.testing.assert_array_equal(one.labels, sharding.gather(many.labels)[:500])
    np.testing.assert_allclose(one.inertia, many.inertia, rtol=1e-4)


def test_both_forms_of_argmax_break_ties_by_the_lower_index():
    values = np.random.default_rng(0).integers(-3, 3, size=(200, 40)).astype(np.float32)
    values[0], values[1] = 0.5, -np.inf
    for form in (kmeans._argmax, kmeans._argmax_by_comparison):
        labels, best = form(jnp.asarray(values))
        np.testing.assert_array_equal(labels, values.argmax(axis=1))
        np.testing.assert_array_equal(best, values.max(axis=1))


@pytest.mark.parametrize("num_devices", [1, 8])
def test_labels_and_inertia_do_not_depend_on_the_tile(points, num_devices, monkeypatch):
    mesh = sharding.make(num_devices)
    expected = kmeans.fit(points, num_clusters=30, seed=1, mesh=mesh)
    monkeypatch.setattr(kmeans, "_TILE", {"cpu": 9})
    kmeans.lloyd.clear_cache()
    tiled = kmeans.fit(points, num_clusters=30, seed=1, mesh=mesh)
    kmeans.lloyd.clear_cache()
    np.testing.assert_array_equal(tiled.labels, expected.labels)
    np.testing.assert_allclose(tiled.inertia, expected.inertia, rtol=1e-5)


def test_empty_clusters_take_half_of_the_largest():
    sums = jnp.array([[8.0, 8.0], [0.0, 0.0], [3.0, 0.0]])
    centroids = kmeans.update(sums, jnp.array([4.0, 0.0, 1.0]))
    np.testing.assert_allclose(centroids[0], [2 * (1 - 1 / 1024), 2 * (1 + 1 / 1024)], rtol=1e-6)
    np.testing.assert_allclose(centroids[1], [2 * (1 + 1 / 1024), 2 * (1 - 1 / 1024)], rtol=1e-6)
    np.testing.assert_allclose(centroids[2], [3, 0])


def test_no_cluster_stays_empty(points):
    labels = kmeans.fit(points, num_clusters=120, seed=0).labels
    assert len(np.unique(labels)) == 120


def test_unknown_rows_are_clusters_of_their_own_and_change_no_other(points):
    inside = np.ones(500, bool)
    inside[[3, 77]] = False
    labels = np.asarray(
        kmeans.fit_runs(points, seeds=[0, 1], num_clusters=9, included=inside).labels
    )
    alone = kmeans.fit_runs(points[inside], seeds=[0, 1], num_clusters=9)
    np.testing.assert_array_equal(labels[:, inside], alone.labels)
    assert (labels[:, ~inside] >= 9).all() and labels[0, 3] != labels[0, 77]


def test_more_clusters_than_points_is_an_error(points):
    with pytest.raises(ValueError, match="cannot form 600 clusters from 500 points"):
        kmeans.fit(points, num_clusters=600, seed=0)


@pytest.mark.parametrize("num_devices", [1, 8])
def test_sides_of_one_space_are_clustered_as_their_concatenation(points, num_devices):
    devices = sharding.make(num_devices)
    joined = kmeans.fit(np.concatenate([points, 2 * points[:, ::-1]], 1), num_clusters=9, seed=4)
    bank = sharding.shard_rows(points, devices)  # of 504 rows on eight devices
    beside = kmeans.fit(
        [bank, 2 * points[:, ::-1]],
        num_clusters=9,
        seed=4,
        included=np.ones(500, bool),
        mesh=devices,
    )
    np.testing.assert_array_equal(beside.labels[:500], joined.labels)
    assert (np.asarray(beside.labels[500:]) == kmeans.UNLABELLED).all()
    np.testing.assert_allclose(beside.inertia, joined.inertia, rtol=1e-5)
    assert float(beside.sizes.sum()) == 500


def test_inertia_is_that_of_faiss_from_the_same_start():
    faiss = pytest.importorskip("faiss")
    generator = np.random.default_rng(5)
    points = generator.standard_normal((6000, 16), np.float32)
    points[:, :4] *= 4
    first = points[np.random.default_rng(0).permutation(len(points))[:150]]
    theirs = faiss.Kmeans(16, 150, niter=20, max_points_per_centroid=len(points))
    theirs.train(points, init_centroids=first)
    ours = kmeans.fit(points, num_clusters=150, num_iterations=20, seed=0)
    np.testing.assert_allclose(ours.inertia[-1], theirs.obj[-1], rtol=0.005)


def test_distances_are_to_the_mean_of_a_points_own_cluster():
    points = np.array([[0.0, 0.0], [2.0, 0.0], [5.0, 1.0], [5.0, 5.0], [9.0, 9.0]], np.float32)
    labels = np.array([3, 3, 0, 0, 7])
    np.testing.assert_allclose(kmeans.distances(points, labels), [1, 1, 2, 2, 0])
    sides = [points[:, :1], points[:, 1:]]
    np.testing.assert_allclose(kmeans.distances(sides, labels), [1, 1, 2, 2, 0])
