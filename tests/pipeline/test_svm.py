import json

import av
import numpy as np
import pytest

from vcjax import settings
from vcjax.idt import extraction
from vcjax.idt.trajectories import COLUMNS, Trajectories
from vcjax.pipeline import build
from vcjax.runtime import stage_cache


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Return the config of 24 videos; HOF depends on the action alone, HOG on the scene."""
    rows = ["path\tvideo_id\tsplit\taction\tscene"]
    for i in range(24):
        path = tmp_path / f"v{i:02}.avi"
        with av.open(path, "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            stream.height, stream.width, stream.pix_fmt = 32, 32, "gray"
            for _ in range(9):
                picture = np.full((32, 32), 10 * i, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
            container.mux(stream.encode())
        rows.append(f"{path}\tv{i:02}\t{'train' if i < 20 else 'test'}\t{i % 2}\t{i // 4}")
    (tmp_path / "list.tsv").write_text("\n".join(rows) + "\n")
    monkeypatch.setattr(extraction, "extract_frames", _extract)
    config = settings.apply_variants(settings.paper(), "folder")
    config.stages = ("manifest", "ingest", "fisher", "svm")
    config.data.manifest, config.num_workers = str(tmp_path / "list.tsv"), 1
    config.fisher.sketch_dim, config.fisher.num_components = 0, 1
    config.fisher.descriptors = ("hog", "hof")
    config.clusters.num_runs = 1
    config.svm.leave_groups_out = True
    return config


def _extract(frames, **how):
    """Yield trajectories of the video whose number is a tenth of its gray value."""
    i = round(list(frames)[0].mean() / 10)
    shift = {"hof": 0.5 * (i % 2), "hog": 0.5 * (i // 4)}
    generator = np.random.default_rng(i)
    parts = {}
    for name, width in COLUMNS.items():
        base = 0.1 * generator.normal(size=(80, width)) + 0.5
        parts[name] = base + shift.get(name, 0) * (np.arange(width) % 3 == 0)
    yield Trajectories(**parts)


def test_each_descriptor_tells_in_new_scenes_what_it_saw(config, tmp_path, capsys):
    stage_cache.run(build.build(config, tmp_path), tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    accuracy = {name: entry["linear"]["action"] for name, entry in report["models"].items()}
    assert set(accuracy) == {"IDT hog", "IDT hof", "IDT side by side"}
    assert accuracy["IDT hof"] == accuracy["IDT side by side"] == 1
    assert accuracy["IDT hog"] < 0.8
    assert "IDT hof" in capsys.readouterr().out


def test_a_sketch_of_several_descriptors_is_refused(config, tmp_path):
    config.fisher.sketch_dim = 2000
    with pytest.raises(settings.SettingsError, match="set --config.fisher.sketch_dim=0"):
        build.build(config, tmp_path)


def test_an_unknown_descriptor_is_named(config, tmp_path):
    config.fisher.descriptors = ("hog", "hoof")
    with pytest.raises(ValueError, match="--config.fisher.descriptors is .*hoof"):
        stage_cache.run(build.build(config, tmp_path), tmp_path)
