import numpy as np
import pytest

from vcjax.data.manifest import Manifest
from vcjax.evaluation import evaluate_baseline, table

NUM = 48
ACTIONS = np.array(["wave", "kick", "hug"])[np.arange(NUM) % 3]
SCENES = np.array(["park", "road", "hall", "pool"])[np.arange(NUM) // 12]
HAS_VECTOR = np.arange(NUM) % 12 != 4  # a kick in each scene has none


@pytest.fixture
def manifest():
    ids = tuple(f"v{i:02}" for i in range(NUM))
    split = tuple(np.where(SCENES == "pool", "test", "train").tolist())
    labels = {"action": tuple(ACTIONS.tolist()), "scene": tuple(SCENES.tolist())}
    return Manifest(ids, ids, labels, split, (10,) * NUM)


def vectors_of(values):
    """Unit vectors close to an axis for each value, and the clusters that follow."""
    _, number = np.unique(values, return_inverse=True)
    rows = np.eye(8)[number] + 0.1 * np.random.default_rng(0).normal(size=(NUM, 8))
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows * HAS_VECTOR[:, None]).astype(np.float32), number[None]


def report(manifest, *, leave_groups_out, **options):
    kinds = {"motion": vectors_of(ACTIONS), "picture": vectors_of(SCENES)}
    rows = slice(None) if leave_groups_out else manifest.rows("train")
    return evaluate_baseline(
        manifest,
        {kind: rows for kind, (rows, _) in kinds.items()},
        HAS_VECTOR,
        {kind: labels[:, rows] for kind, (_, labels) in kinds.items()},
        group="scene",
        leave_groups_out=leave_groups_out,
        penalty=100.0,
        seed=0,
        dataset="some",
        **options,
    )


def test_vectors_tell_in_new_scenes_what_they_are_made_of_and_no_more(manifest):
    result = report(manifest, leave_groups_out=True)
    motion, picture = result["models"]["IDT motion"], result["models"]["IDT picture"]
    # the four without a vector are answered with the first of equally frequent actions: hug
    assert motion["linear"]["action"] == 44 / NUM
    assert motion["neighbor"]["action"] >= 44 / NUM and picture["linear"]["action"] < 0.5
    assert motion["clusters"]["ami"]["action"] == pytest.approx(1)
    assert picture["clusters"]["ami"]["scene"] == pytest.approx(1)
    assert abs(picture["clusters"]["ami"]["action"]) < 0.1
    assert result["chance"]["action"] == pytest.approx(1 / 3)


def test_a_scene_held_out_cannot_be_told(manifest):
    result = report(manifest, leave_groups_out=True)
    assert set(result["models"]["IDT picture"]["linear"]) == set(result["chance"]) == {"action"}


def test_labels_that_are_not_chosen_are_left_out(manifest):
    result = report(manifest, leave_groups_out=True, labels=("action",))
    assert result["models"]["IDT motion"]["clusters"]["ami"].keys() == {"action"}
    assert "linear" in result["models"]["IDT motion"] and set(result["chance"]) == {"action"}


def test_the_split_is_asked_where_groups_are_not_held_out_in_turn(manifest):
    result = report(manifest, leave_groups_out=False)
    assert result["num_videos"] == {"train": 36, "test": 12}
    assert result["models"]["IDT motion"]["linear"]["action"] >= 11 / 12


def test_the_table_says_what_is_held_out(manifest):
    text = table(report(manifest, leave_groups_out=True))
    assert "each value of scene held out in turn" in text and "\nIDT motion " in text
