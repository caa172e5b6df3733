import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score
from sklearn.neighbors import KNeighborsClassifier

from vcjax.evaluation import spaces
from vcjax.evaluation.measures import ProbeSettings
from vcjax.evaluation.spaces import Candidates, Space

N = 24
MOTION, SCENE = np.arange(N) % 4, np.arange(N) // 6
PROBING = ProbeSettings(retrieval=(1, 5), num_neighbors=3)


def _space(values, noise=0.05, missing=()):
    generator = np.random.default_rng(0)
    vectors = np.eye(4)[values] + noise * generator.normal(size=(N, 4))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    has_vector = ~np.isin(np.arange(N), missing)
    labels = np.where(has_vector, values, 4 + np.arange(N))
    return Space(vectors * has_vector[:, None], has_vector, np.stack([labels, labels]))


def _report(explored, group="scene", **columns):
    columns = columns or {"motion": MOTION.astype(str), "scene": SCENE.astype(str)}
    return spaces.report(
        columns, explored, group=group, num_shared=5, probing=PROBING, dataset="d", seed=0
    )


def test_neighbors_are_the_nearest_of_other_groups():
    vectors = np.random.default_rng(1).normal(size=(300, 5)).astype(np.float32)
    groups = np.arange(300) % 7
    found = spaces.rank(
        vectors, {"any": Candidates(np.ones(300, bool)), "x": Candidates(groups > 1, groups)}, 4
    )
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row in (0, 5, 299):
        similarity = unit @ unit[row]
        similarity[row] = -np.inf
        assert found["any"].rows[row].tolist() == np.argsort(-similarity)[:4].tolist()
        similarity[(groups == groups[row]) | (groups <= 1)] = -np.inf
        assert found["x"].rows[row].tolist() == np.argsort(-similarity)[:4].tolist()


def test_too_few_candidates_are_marked():
    vectors = np.eye(4, dtype=np.float32)
    found = spaces.rank(vectors, {"": Candidates(np.array([True, True, False, False]))}, 3)[""]
    assert found.rows.tolist()[0] == [1, -1, -1] and (found.rows[2, :2] == [0, 1]).all()


def test_a_space_of_motions_finds_motions_and_no_scenes():
    report = _report({"motion": _space(MOTION), "looks": _space(SCENE)})
    motion, looks = report["models"]["motion"], report["models"]["looks"]
    assert motion["neighbor"]["motion"] == motion["vote"]["motion"] == 1
    assert motion["retrieval"]["motion"] == {"1": 1.0, "5": 1.0}
    assert motion["clusters"]["ami"]["motion"] == pytest.approx(1)
    scene = adjusted_mutual_info_score(SCENE, MOTION)
    assert motion["clusters"]["ami"]["scene"] == pytest.approx(scene)
    assert motion["clusters"]["sizes"] == [6, 6, 6, 6]
    assert looks["neighbor"]["scene"] == 1 and looks["neighbor"]["motion"] < 0.5
    assert report["leave_one_out"]["motion"] == {"num": N, "apart": "scene"}
    assert report["leave_one_out"]["scene"]["apart"] == ""  # else there would be no neighbor
    ((_, _, shared),) = report["shared_neighbors"]["pairs"]
    assert shared < report["shared_neighbors"]["chance"] + 0.2


def test_votes_agree_with_scikit_learn():
    space = _space(MOTION, noise=0.8)
    report = _report({"motion": space}, group="", motion=MOTION.astype(str))
    correct = []
    for row in range(N):
        others = np.arange(N) != row
        weigh = lambda distance: np.exp(-distance / PROBING.temperature)  # noqa: E731
        model = KNeighborsClassifier(3, metric="cosine", weights=weigh, algorithm="brute")
        model.fit(space.vectors[others], MOTION[others])
        correct.append(model.predict(space.vectors[[row]])[0] == MOTION[row])
    assert report["models"]["motion"]["vote"]["motion"] == pytest.approx(np.mean(correct))


def test_videos_without_a_vector_or_a_label_are_left_out():
    motion = np.where(np.arange(N) == 5, "", MOTION.astype(str))
    report = _report({"motion": _space(MOTION, missing=(0, 1))}, group="", motion=motion)
    assert report["without_vector"] == {"motion": 2}
    assert report["models"]["motion"]["neighbor"]["motion"] == 1
    assert report["leave_one_out"]["motion"]["num"] == N - 1


def test_labels_without_pairs_are_not_evaluated():
    report = _report({"motion": _space(MOTION)}, group="", name=np.arange(N).astype(str))
    assert not report["models"]["motion"]["neighbor"] and not report["leave_one_out"]


def test_a_space_shares_all_neighbors_with_a_rotated_copy():
    space = _space(MOTION, noise=0.5)
    turned = space._replace(vectors=space.vectors[:, ::-1].copy())
    report = _report({"a": space, "b": turned})
    assert report["shared_neighbors"]["pairs"] == [["a", "b", 1.0]]
    assert report["shared_neighbors"]["chance"] == pytest.approx(5 / (N - 1))
