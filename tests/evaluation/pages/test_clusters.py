import numpy as np

from vcjax.clustering import kmeans
from vcjax.evaluation.pages import clusters

POINTS = np.array([[0.0, 0], [1, 0], [2, 0], [9, 9], [9, 8], [0, 0], [0, 0]])
LABELS = np.array([1, 1, 1, 0, 0, 1, 8])
HAS_POINT = np.array([True] * 5 + [False] * 2)
COLUMNS = {
    "motion": np.array(["walk", "run", "walk", "run", "", "hop", "hop"]),
    "empty": np.array([""] * 7),
}


def _describe(num_nearest):
    own = np.where(HAS_POINT, LABELS, 9)
    distances = kmeans.distances(POINTS, own)
    return clusters.describe(
        LABELS, distances, COLUMNS, has_point=HAS_POINT, num_nearest=num_nearest
    )


def test_clusters_come_by_size_and_those_without_a_point_as_one_at_the_end():
    assert [(c.number, c.size) for c in _describe(2)] == [(1, 3), (0, 2), (None, 2)]


def test_the_nearest_to_the_mean_come_first():
    assert [c.nearest for c in _describe(2)] == [(1, 0), (3, 4), (5, 6)]


def test_the_most_common_value_and_its_share_of_all_videos_of_the_cluster():
    largest, other, none = _describe(2)
    assert largest.common == {"motion": ("walk", 2 / 3)}
    assert other.common == {"motion": ("run", 1 / 2)}
    assert none.common == {"motion": ("hop", 1.0)}
