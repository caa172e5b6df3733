import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score

from vcjax.evaluation import agreement


def test_it_is_the_mean_of_scikit_learns_over_runs_without_unlabeled_videos():
    values = np.array(["a", "a", "b", "b", "c", "c", ""])
    labels = np.array([[0, 0, 1, 1, 1, 2, 0], [2, 1, 1, 1, 0, 0, 5]])
    expected = np.mean([adjusted_mutual_info_score(values[:6], run[:6]) for run in labels])
    score = agreement.adjusted_mutual_information(labels, values)
    assert score == pytest.approx(expected) and 0 < score < 1


def test_the_same_partition_is_1_and_an_independent_one_about_0():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 6, (3, 600))
    names = np.array(list("fbdeac"))
    same = [agreement.adjusted_mutual_information(run[None], names[run]) for run in labels]
    np.testing.assert_allclose(same, 1)
    other = agreement.adjusted_mutual_information(labels, names[generator.integers(0, 6, 600)])
    assert abs(other) < 0.02
