"""Features of frozen networks are computed again exactly if their weights, videos or clips change.

A stand-in for the embedding counts the networks that it gets; tests/pipeline/test_decodes.py
evaluates with decoded clips.
"""

import os

import numpy as np
import pytest
from flax import nnx

from vcjax import inference, settings
from vcjax.data.manifest import Manifest
from vcjax.evaluation import frozen
from vcjax.models.resnet3d import ResNet3D


@pytest.fixture
def manifest(tmp_path):
    (tmp_path / "videos").mkdir()
    paths = [tmp_path / "videos" / f"{name}.mp4" for name in "abc"]
    for path in paths:
        path.write_bytes(b"frames")
    return Manifest(tuple("abc"), tuple(map(str, paths)), {}, ("train",) * 3, (9,) * 3)


@pytest.fixture
def computed(monkeypatch):
    """Return the names of the networks that are computed; the features count the computations."""
    names = []

    def videos(models, manifest, config, *, clips_per_video):
        names.extend(models)
        rows = np.full((len(manifest), 2), len(names), np.float32)
        return {name: inference.Features(rows, -rows) for name in models}

    monkeypatch.setattr(inference, "videos", videos)
    return names


@pytest.fixture
def features(tmp_path, manifest, computed):
    config = settings.paper()

    def features(models, *, owner="evaluate", manifest=manifest, clips=5, **changed):
        config.update_from_flattened_dict(changed)
        folder = tmp_path / "features"
        return frozen.features(folder, owner, models, manifest, config, clips_per_video=clips)

    return features


def _network(seed=0, **size):
    return ResNet3D(width=1, embedding_dim=2, rngs=nnx.Rngs(seed), **size)


def _files(tmp_path):
    return sorted((tmp_path / "features").iterdir())


def test_equal_inputs_are_computed_once_for_all_owners(features, computed, tmp_path, caplog):
    caplog.set_level("INFO")
    first = features({"ir": _network(), "la": _network(1)})
    again = features({"la": _network(1), "ir": _network()})
    assert list(again) == ["la", "ir"]
    shared = features({"tune": _network(1)}, owner="few_shot")
    assert computed == ["ir", "la"] and len(_files(tmp_path)) == 2
    assert "few_shot: using the kept features of tune" in caplog.text
    for one, other in ((again["ir"], first["ir"]), (shared["tune"], first["la"])):
        np.testing.assert_array_equal(one.embedding, other.embedding)
        np.testing.assert_array_equal(one.pooled, other.pooled)


def test_changed_weights_replace_the_features_of_one_network(features, computed, tmp_path):
    networks = {"ir": _network(), "la": _network(1)}
    features(networks)
    before = _files(tmp_path)
    networks["la"].stages[0][0].first_norm.mean[...] += 1  # running statistics count as well
    features(networks)
    assert computed == ["ir", "la", "la"]
    assert len(_files(tmp_path)) == 2 and len({*_files(tmp_path), *before}) == 3


@pytest.mark.parametrize(
    "changed",
    [{"clips": 3}, {"clip.side": 64}, {"clip.num_frames": 8}, {"clip.stride": 2}, {"seed": 1}],
    ids=str,
)
def test_changed_clips_are_computed_again(features, computed, changed):
    features({"ir": _network()})
    features({"ir": _network()}, **changed)
    assert computed == ["ir", "ir"]


def test_settings_of_probes_and_of_reading_change_nothing(features, computed):
    features({"ir": _network()})
    features(
        {"ir": _network()},
        **{"evaluation.num_neighbors": 3, "evaluation.batch_size": 2, "svm.penalty": 1.0},
    )
    assert computed == ["ir"]


def test_changed_videos_are_computed_again(features, computed, manifest):
    network = {"ir": _network()}
    features(network)
    features(network, manifest=manifest.take([0, 2]))
    os.utime(manifest.paths[1], (1, 1))
    features(network, manifest=manifest.take([0, 2]))  # not a video that it has
    features(network)
    assert computed == ["ir"] * 3


def test_a_moved_folder_of_videos_changes_nothing(features, computed, manifest, tmp_path):
    features({"ir": _network()})
    (tmp_path / "videos").rename(tmp_path / "moved")
    paths = tuple(path.replace("/videos/", "/moved/") for path in manifest.paths)
    moved = Manifest(manifest.video_ids, paths, {}, manifest.split, manifest.num_frames)
    features({"ir": _network()}, manifest=moved)
    assert computed == ["ir"]


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut_short(path):
    path.write_bytes(path.read_bytes()[:-40])


def _replace(path):
    np.savez(path, key="of another network", embedding=np.ones((3, 2)), pooled=np.ones((3, 2)))


@pytest.mark.parametrize("damage", [_flip, _cut_short, _replace])
def test_a_damaged_file_is_computed_again(features, computed, tmp_path, caplog, damage):
    features({"ir": _network()})
    (path,) = _files(tmp_path)
    damage(path)
    made = features({"ir": _network()})["ir"]
    assert computed == ["ir", "ir"] and (made.embedding == 2).all()
    assert str(path) in caplog.text and "not used" in caplog.text
    assert (features({"ir": _network()})["ir"].embedding == 2).all()
    assert computed == ["ir", "ir"]


def test_precision_belongs_to_the_key(features, computed):
    features({"ir": _network()})
    features({"ir": _network(dtype=np.dtype("bfloat16"))})
    assert computed == ["ir", "ir"]
