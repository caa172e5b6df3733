import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from vcjax.evaluation import probes


def _separable(generator, count, dim, scale=1.0):
    values = np.arange(count) % 3
    rows = generator.normal(size=(count, dim)) * scale
    rows += 8 * scale * np.eye(3)[values][:, np.arange(dim) % 3]
    return rows, np.array(["x", "y", "z"])[values]


def test_nearest_neighbor_by_hand_is_by_angle_not_by_distance():
    x_train = np.array([[10.0, 0.0], [0.0, 0.1], [-1.0, -1.0]])
    x_test = np.array([[0.3, 0.2], [1.0, 9.0], [-0.1, -0.2]])
    predictions = probes.nearest_neighbor(x_train, np.array(["east", "north", "southwest"]), x_test)
    assert predictions.tolist() == ["east", "north", "southwest"]


@pytest.mark.parametrize("dim", [8, 200])
def test_a_linearly_separable_label_is_always_right(dim):
    rows, values = _separable(np.random.default_rng(0), 120, dim)
    predictions = probes.linear(rows[:90], values[:90], rows[90:], seed=0)
    assert (predictions == values[90:]).all()


def test_one_video_of_each_of_many_classes_is_enough_where_they_lie_apart():
    rows, values = 20 * np.eye(30), np.array([f"scene{i}" for i in range(30)])
    np.testing.assert_array_equal(probes.regress(rows, values, rows + 0.1), values)


def test_random_features_are_right_about_as_often_as_chance():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(400, 20))
    values = generator.permutation(np.array(["a", "b", "c", "d"]).repeat(100))
    predictions = probes.linear(rows[:200], values[:200], rows[200:], seed=0)
    assert abs(np.mean(predictions == values[200:]) - 0.25) < 0.1


def test_more_features_than_videos_are_fitted_as_if_in_full():
    generator = np.random.default_rng(1)
    rows, labels = generator.normal(size=(40, 90)), generator.integers(0, 12, 40).astype(str)
    x_train, y_train, x_test = rows[:24], labels[:24], rows[24:]  # too few to select C: it is 1
    scaler = StandardScaler().fit(x_train)
    full = LogisticRegression(C=1.0, tol=1e-6, max_iter=2000)
    expected = full.fit(scaler.transform(x_train), y_train).predict(scaler.transform(x_test))
    assert np.mean(probes.linear(x_train, y_train, x_test, seed=0) == expected) > 0.9


def test_scale_and_offset_of_a_feature_and_dead_ones_do_not_matter():
    generator = np.random.default_rng(2)
    rows, values = _separable(generator, 90, 5, scale=0.5)
    scale = np.array([100.0, 0.01, 1.0, 3.0, 0.2])
    changed = np.column_stack([rows * scale + 1000 * scale, np.where(np.arange(90) < 60, 7.0, 1e6)])
    predictions = [probes.linear(x[:60], values[:60], x[60:], seed=0) for x in (rows, changed)]
    np.testing.assert_array_equal(*predictions)


def test_videos_without_fisher_vector_are_answered_with_the_most_frequent_value():
    rows, values = _separable(np.random.default_rng(3), 90, 6)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    has_vector = np.arange(90) % 4 != 0
    rows[~has_vector] = np.nan  # never read
    values[1:40:4] = values[0]  # makes one value the most frequent
    present, counts = np.unique(values[:60], return_counts=True)
    predictions = probes.linear_fisher(
        rows[:60], values[:60], rows[60:],
        train_has_vector=has_vector[:60], test_has_vector=has_vector[60:], seed=0,
    )  # fmt: skip
    assert set(predictions[~has_vector[60:]]) == {present[counts.argmax()]}
    assert np.mean(predictions[has_vector[60:]] == values[60:][has_vector[60:]]) > 0.9


def test_no_fisher_vector_at_all_is_no_error():
    none = np.zeros(4, bool)
    predictions = probes.linear_fisher(
        np.zeros((4, 3)), np.array(["a", "b", "b", "b"]), np.zeros((4, 3)),
        train_has_vector=none, test_has_vector=none, seed=0,
    )  # fmt: skip
    assert predictions.tolist() == ["b"] * 4


def test_the_svm_is_fitted_in_fewer_dimensions_as_if_in_all():
    generator = np.random.default_rng(4)
    rows, values = generator.normal(size=(60, 300)), generator.integers(0, 3, 60).astype(str)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    present = np.ones(60, bool)
    predictions = probes.linear_svm(
        rows[:40], values[:40], rows[40:],
        train_has_vector=present[:40], test_has_vector=present[40:], penalty=100.0,
    )  # fmt: skip
    full = LinearSVC(C=100.0, dual=True, tol=1e-6, max_iter=100_000, random_state=0)
    np.testing.assert_array_equal(predictions, full.fit(rows[:40], values[:40]).predict(rows[40:]))
