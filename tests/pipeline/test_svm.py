import json

import numpy as np
import pytest

from vcjax import settings
from vcjax.data import manifest as manifests
from vcjax.idt import storage
from vcjax.idt.trajectories import COLUMNS, Trajectories
from vcjax.pipeline import build
from vcjax.runtime import stage_cache


@pytest.fixture
def config(tmp_path):
    (tmp_path / "list.tsv").write_text("path\na.mp4\n")
    config = settings.apply_variants(settings.paper(), "folder")
    config.stages = ("manifest", "idt", "fisher", "svm")
    config.data.manifest = str(tmp_path / "list.tsv")
    config.fisher.sketch_dim, config.fisher.num_components = 0, 1
    config.fisher.descriptors = ("hog", "hof")
    config.clusters.num_runs = 1
    config.svm.leave_groups_out = True
    return config


@pytest.fixture
def workdir(tmp_path):
    """Trajectories of 24 videos whose HOF tells the action, whose HOG the scene."""
    generator = np.random.default_rng(0)
    actions, scenes = np.arange(24) % 2, np.arange(24) // 4
    shift = {"hof": 0.5 * actions, "hog": 0.5 * scenes}
    ids = tuple(f"v{i:02}" for i in range(24))
    (tmp_path / "idt").mkdir()
    for i, video_id in enumerate(ids):
        parts = {}
        for name, width in COLUMNS.items():
            base = 0.1 * generator.normal(size=(80, width)) + 0.5
            parts[name] = base + shift.get(name, np.zeros(24))[i] * (np.arange(width) % 3 == 0)
        storage.write(storage.path_of(tmp_path / "idt", video_id), Trajectories(**parts))
    labels = {"action": tuple(map(str, actions)), "scene": tuple(map(str, scenes))}
    (tmp_path / "manifest").mkdir()
    manifests.save(
        manifests.Manifest(ids, ids, labels, ("train",) * 20 + ("test",) * 4, (9,) * 24),
        tmp_path / "manifest" / "manifest.tsv",
    )
    for name in ("manifest", "idt"):
        record = {"complete": True, "digest": name}
        (tmp_path / name / "stage.json").write_text(json.dumps(record))
    return tmp_path


def test_each_descriptor_tells_in_new_scenes_what_it_saw(config, workdir, capsys):
    stage_cache.run(build.build(config, workdir), workdir, only=["fisher", "svm"])
    report = json.loads((workdir / "report.json").read_text())
    accuracy = {name: entry["linear"]["action"] for name, entry in report["models"].items()}
    assert set(accuracy) == {"IDT hog", "IDT hof", "IDT side by side"}
    assert accuracy["IDT hof"] == accuracy["IDT side by side"] == 1
    assert accuracy["IDT hog"] < 0.8
    assert "IDT hof" in capsys.readouterr().out


def test_a_sketch_of_several_descriptors_is_refused(config, workdir):
    config.fisher.sketch_dim = 2000
    with pytest.raises(settings.SettingsError, match="set --config.fisher.sketch_dim=0"):
        build.build(config, workdir)


def test_an_unknown_descriptor_is_named(config, workdir):
    config.fisher.descriptors = ("hog", "hoof")
    with pytest.raises(ValueError, match="--config.fisher.descriptors is .*hoof"):
        stage_cache.run(build.build(config, workdir), workdir, only=["fisher"])
