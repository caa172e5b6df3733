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


def test_where_scenes_have_several_actions_clusters_follow_only_one_of_them():
    actions = np.array(["run", "walk"] * 10 + ["jump"] * 10)
    scenes = np.array(["park"] * 10 + ["street"] * 10 + ["gym"] * 10)
    columns = {"action": actions, "scene": scenes}
    rows, present = np.arange(30), np.ones(30, bool)
    by_scene = np.unique(scenes, return_inverse=True)[1][None]
    result = agreement.agreement_of(by_scene, present, columns, rows, group="scene")
    assert list(result["mixed"]) == ["action"]  # every action of a scene is that of one scene
    mixed = result["mixed"]["action"]
    assert mixed["num_videos"] == 20 and mixed["group"] == 1
    assert abs(mixed["label"]) < 0.1 < result["ami"]["action"]
