import numpy as np
import pytest

from vcjax import settings
from vcjax.data.manifest import Manifest
from vcjax.training import transfer


def _manifest(split=True):
    ids = tuple(f"v{i}" for i in range(12))
    labels = {"class": ("a", "b", "c", "") * 3, "scene": tuple("xxxyyyzzzwww")}
    if split:
        labels |= {"split1": ("train",) * 6 + ("test",) * 6, "split2": ("test", "train", "") * 4}
    return Manifest(ids, ids, labels, ("",) * 12, (9,) * 12)


def _splits(manifest, wanted=()):
    return transfer.splits(manifest, "class", wanted, group="scene", config=settings.paper())


def test_official_splits_are_taken_and_unused_or_unlabeled_videos_left_out():
    found = _splits(_manifest())
    assert list(found) == ["split1", "split2"]
    assert found["split1"].train.tolist() == [0, 1, 2, 4, 5]
    assert found["split2"].train.tolist() == [1, 4, 10] and found["split2"].test.tolist() == [
        0,
        6,
        9,
    ]
    assert list(_splits(_manifest(), ("split2",))) == ["split2"]


def test_each_fold_of_a_column_is_held_out_in_turn():
    manifest = _manifest()
    manifest.labels["fold"] = tuple("001122001122")
    splits = _splits(manifest, ("fold",))
    assert list(splits) == ["fold0", "fold1", "fold2"]
    assert splits["fold0"].test.tolist() == [0, 1, 6]  # video 7 has no class
    assert splits["fold0"].train.tolist() == [2, 4, 5, 8, 9, 10]


def test_columns_of_splits_are_no_labels_of_the_videos():
    assert set(_manifest().own_labels) == {"class", "scene"}


def test_without_official_splits_whole_groups_are_held_out():
    manifest = _manifest(split=False)
    ((name, rows),) = _splits(manifest).items()
    scenes = np.array(manifest.labels["scene"])
    assert name == "split" and not set(scenes[rows.train]) & set(scenes[rows.test])


def test_a_share_of_the_training_side_is_watched_by_whole_groups():
    rows = np.array([0, 1, 2, 4, 5, 6, 8, 9, 10])
    manifest = _manifest()
    found = transfer.hold_out(manifest, rows, group="scene", holdout=0.3, seed=0)
    scenes = np.array(manifest.labels["scene"])
    assert sorted([*found.train, *found.test]) == rows.tolist() and len(found.test)
    assert not set(scenes[found.train]) & set(scenes[found.test])


def test_so_many_videos_of_each_class_are_drawn():
    values = np.array(list("aaaaabbbbbc"))
    rows = transfer.subsample_classes(values, np.arange(11), 3, seed=0)
    assert sorted(values[rows]) == list("aaabbbc")
    assert transfer.subsample_classes(values, np.arange(11), 0, seed=0).tolist() == list(range(11))


def test_the_column_of_the_classes_is_found_or_asked_for():
    assert transfer.label_column(_manifest(), "") == "class"
    assert transfer.label_column(_manifest(), "scene") == "scene"
    with pytest.raises(settings.SettingsError, match="no column 'verb' among"):
        transfer.label_column(_manifest(), "verb")
