"""Stages read the shards of the run's collection and no original; other probes read no clip."""

import collections
import json
import shutil

import numpy as np
import pytest

from vcjax import settings
from vcjax.data import readers, synthetic, video
from vcjax.idt import extraction
from vcjax.idt.trajectories import COLUMNS, Trajectories
from vcjax.pipeline import build
from vcjax.pipeline import workdir as workdirs
from vcjax.runtime import stage_cache


def _extract(frames, **how):
    """Yield random trajectories that depend on the frames."""
    generator = np.random.default_rng(int(sum(frame.sum() for frame in frames)))
    yield Trajectories(*(generator.random((20, width)) for width in COLUMNS.values()))


@pytest.mark.slow
def test_a_run_with_evaluation_decodes_every_original_once(tmp_path, monkeypatch):
    rendered = synthetic.render(tmp_path / "videos", num_videos=32, seed=0, num_workers=1)
    counts = collections.Counter()
    for name in ("_decode_whole", "_seek_and_decode"):
        decode = getattr(readers._VideoFile, name)

        def counted(self, *arguments, decode=decode):
            counts[self._path] += 1
            return decode(self, *arguments)

        monkeypatch.setattr(readers._VideoFile, name, counted)
    monkeypatch.setattr(extraction, "extract_frames", _extract)
    config = settings.apply_variants(settings.paper(), "smoke")
    config.data.rendered.num_videos, config.data.manifest = 0, str(rendered)
    config.num_workers, config.clip.num_frames, config.clip.side = 1, 4, 16
    config.stages = (*(s for s in config.stages if s != "la_own"), "finetune", "few_shot")
    config.finetune.epochs = config.tune.epochs = 1
    stage_cache.run(build.build(config, tmp_path), tmp_path)
    assert (tmp_path / "report.json").exists()
    assert len(counts) == 32 and set(counts.values()) == {1}
    assert not set(counts) & set(workdirs.manifest(tmp_path).paths)


@pytest.mark.slow
def test_other_probes_of_a_run_read_no_clip(tmp_path, monkeypatch):
    config = settings.apply_variants(settings.paper(), "smoke")
    config.num_workers, config.clip.num_frames, config.clip.side = 1, 4, 16
    config.stages, config.few_shot.init_from = ("manifest", "ingest", "evaluate", "few_shot"), ""
    read, clip = [], video.clip

    def counted(path, *arguments, **how):
        read.append(path)
        return clip(path, *arguments, **how)

    monkeypatch.setattr(video, "clip", counted)

    def results():
        stage_cache.run(build.build(config, tmp_path), tmp_path)
        paths = (tmp_path / "report.json", tmp_path / "few_shot" / "result.json")
        report, few_shot = (json.loads(path.read_text()) for path in paths)
        del report["seconds"]
        return report, few_shot, (tmp_path / "clusters.csv").read_bytes()

    results()
    read.clear()
    config.evaluation.num_neighbors, config.evaluation.shots = 3, (2,)
    kept = results()
    assert not read and len(list((tmp_path / "features").iterdir())) == 1
    shutil.rmtree(tmp_path / "features")
    for stage in ("evaluate", "few_shot"):
        shutil.rmtree(tmp_path / stage)
    assert results() == kept
    assert set(read) == set(workdirs.manifest(tmp_path).paths)
