"""Whatever a run refuses, it refuses before a file changes; VCJAX_DRAWS draws (default 40).

The run is complete to the last record. Its results are small files in the place of weights, since
no check may read more of a result than its record.
"""

import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fisher
from vcjax import doctor, settings
from vcjax.data import manifest as manifests
from vcjax.ingest.collection import Collection, PartVectors, Pictures
from vcjax.pipeline import build, manifest
from vcjax.pipeline import workdir as workdirs
from vcjax.runtime import checksums, stage_cache
from vcjax.runtime.stage_record import StageError
from vcjax.settings import defaults

NUM_DRAWS = int(os.environ.get("VCJAX_DRAWS", "40"))
STAGES = ("manifest", "ingest", "fisher", "ir", "la", "tune", "evaluate", "finetune", "few_shot")
VALUES = (-1, 0, 1, 3, 16, 64, 10**6, -0.5, 0.0, 0.25, 1.0, 7.5, float("nan"), float("inf"),
          "", "x", "ir", "la", "scene", "bank", "joint", "float16", (), (1,), (1, -1), ("x",),
          True, False)  # fmt: skip


def _config(**changed):
    config = settings.apply_variants(settings.paper(), "smoke")
    config.stages = STAGES
    config.epochs_scale, config.data.rendered.num_videos = 1.0, 40
    config.clusters.num_clusters = 3
    config.update_from_flattened_dict(changed)
    return config


class _BegunError(Exception):
    """A stage has begun: its settings were not refused."""


def _begin(directory):
    raise _BegunError(directory.name)


def _run(workdir, config, only=(), run=_begin):
    stages = [stage._replace(run=run) for stage in build.build(config, workdir)]
    stage_cache.run(stages, workdir, only=only, keep_previous=config.keep_previous)


def _write_result(directory):
    """Write small files with the names that the stage writes."""
    config, workdir = _config(), directory.parent
    if directory.name == "manifest":
        videos = directory / "videos"
        videos.mkdir()
        listed = manifest.listed(config, workdir)
        for path in listed.paths:
            (videos / path).write_text(path)
        paths = tuple(str(videos / path) for path in listed.paths)
        manifests.save(replace(listed, paths=paths), directory / "manifest.tsv")
        return
    if directory.name == "ingest":
        videos = workdirs.manifest(workdir)
        shard = directory / "collection" / "parts" / "00000.array_record"
        paths = tuple(f"{shard}#{i}:40" for i in range(len(videos)))
        manifests.save(replace(videos, paths=paths), directory / "manifest.tsv")
        _write_collection(config, workdir, videos)
    if directory.name in ("ir", "la", "tune", "finetune"):
        part = directory / "split" if directory.name == "finetune" else directory
        (part / "checkpoints" / "6").mkdir(parents=True)
        (part / "checkpoints" / "6" / "bank").write_text(directory.name)
    (directory / "index.html").write_text(directory.name)
    (workdir / "report.json").write_text("{}")
    (workdir / "clusters.csv").write_text("")


def _write_collection(config, workdir, videos):
    """Write a collection of vectors, without frames."""
    pictures, variant = Pictures(2 * config.clip.side, "jpeg"), workdirs.variant(config)
    collection = Collection.create(workdir / "ingest" / "collection", pictures, len(videos))
    model = fisher.Model.fit(np.eye(426, dtype=np.float32), explained_variance=0.1,
                             num_components=1, sketch_dim=2, seed=0)  # fmt: skip
    collection.write_model(variant, model, videos.video_ids)
    ones = np.ones(len(videos), np.int64)
    vectors = PartVectors(videos.video_ids, videos.paths, np.ones((len(videos), 2)), ones)
    collection.write_vectors(variant, 0, vectors)
    entries = [{"video_id": video_id, "problem": ""} for video_id in videos.video_ids]
    record = {"pictures": list(pictures), "shard": "00000.array_record", "size": 0}
    collection.write_record(0, record | {"videos": entries})
    collection.shard(record).touch()


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "complete"
    workdir.mkdir()
    _run(workdir, _config(), run=_write_result)
    return workdir


def _checksums(workdir):
    files = [p for p in workdir.rglob("*") if p.is_file() and p.name != "run.lock"]
    return checksums.checksums_of(files, workdir)


def _results(workdir):
    """Checksums of all results, without the records of stages, wherever they are."""
    found = _checksums(workdir).items()
    return {checksum for name, checksum in found if not Path(name).match("stage*.json")}


def _draw(generator):
    """Some of the settings, and values for them that may fit or not."""
    flat = dict(defaults.flat(_config()))
    flat.pop("stages")
    changed = {}
    for key in generator.sample(list(flat), generator.choice((1, 1, 1, 2, 3))):
        alike = [v for v in VALUES if type(v) is type(flat[key]) and v != flat[key]]
        changed[key] = generator.choice(alike)
    only = generator.choice(((), (), *((stage,) for stage in STAGES[3:])))
    return changed, only


def test_refused_settings_change_no_file_and_accepted_ones_lose_none(complete, tmp_path):
    generator, counts = random.Random(0), {"refused": 0, "complete": 0, "begun": 0}
    workdir = shutil.copytree(complete, tmp_path / "run")
    before, results = _checksums(workdir), _results(workdir)
    for _ in range(NUM_DRAWS):
        changed, only = _draw(generator)
        try:
            _run(workdir, _config(**changed), only)
        except (ValueError, TypeError) as error:
            outcome = "refused"
            assert str(error)
        except _BegunError:
            outcome = "begun"
        else:
            outcome = "complete"
        counts[outcome] += 1
        if outcome == "begun":
            assert _results(workdir) >= results, (changed, only)
            shutil.rmtree(workdir)
            shutil.copytree(complete, workdir)
        else:
            assert _checksums(workdir) == before, (changed, only)
    print(counts)
    assert counts["refused"] and counts["begun"]


@pytest.mark.parametrize(
    "changed, only, message",
    [
        ({"ir.batch_size": 64}, (), "a batch of 64 clips exceeds the 30 training videos"),
        ({"la.batch_size": 64}, (), "set --config.la.batch_size"),
        ({"ir.batch_size": 12}, (), "a batch of 12 does not divide among 8 devices"),
        ({"finetune.batch_size": 64}, ("finetune",), "--config.finetune.batch_size"),
        ({"clusters.num_clusters": 40}, (), "40 clusters need more than"),
        ({"data.num_videos": 1000}, (), "data.num_videos is 1000"),
        ({"data.group": "x"}, (), "--config.data.group is 'x'"),
        ({"data.rendered.num_videos": 4}, (), "a batch of 8 clips exceeds"),
        ({"finetune.label": "x"}, (), "no column 'x'"),
        ({"few_shot.splits": ("x",)}, (), "no column 'x'"),
        ({"evaluation.labels": ("motion", "x")}, (), "labels has 'x', .* some of motion, scene"),
        ({"model.width": 16}, ("finetune",), "finetune needs tune, .* model.width 8 -> 16; add"),
        ({"model.width": 16}, ("evaluate",), "evaluate needs ir, .* model.width 8 -> 16; add"),
        ({"ir.epochs": 40}, ("evaluate",), "evaluate needs ir, .* ir.epochs 20 -> 40; add ir,"),
        ({"idt.matcher": "surf"}, ("la",), 'needs fisher, .* idt.matcher "flow" -> "surf"'),
        ({"data.side": 32}, ("fisher",), "needs ingest, .* data.side 64 -> 32; add ingest"),
        ({"data.side": 16}, (), "clip.side=32 needs frames .* of the run have 16; .*data.side=64"),
        ({"idt.detector": "x"}, (), "unknown detector 'x'; .* --config.idt.detector=none computes"),
        ({"idt.matcher": "surf"}, ("finetune",), 'needs tune, .* idt.matcher "flow" -> "surf"'),
    ],
)
def test_refusals_name_the_setting_and_change_no_file(complete, changed, only, message):
    before = _checksums(complete)
    with pytest.raises(ValueError, match=message):
        _run(complete, _config(**changed), only)
    assert _checksums(complete) == before


def test_a_network_of_a_stage_outside_of_the_config_must_fit(complete):
    config = _config(**{"model.width": 16, "finetune.init_from": "ir"})
    config.stages = ("manifest", "finetune")
    before = _checksums(complete)
    with pytest.raises(ValueError, match="network of ir, whose model.width is 8, not 16; set"):
        _run(complete, config)
    assert _checksums(complete) == before


def test_a_new_run_is_refused_before_a_video_is_rendered(tmp_path):
    with pytest.raises(settings.SettingsError, match="a batch of 64 clips exceeds"):
        _run(tmp_path, _config(**{"la.batch_size": 64}))
    assert not _checksums(tmp_path)


def test_without_checkpoints_no_page_is_removed_and_doctor_says_so(complete, tmp_path):
    workdir = shutil.copytree(complete, tmp_path / "run")
    shutil.rmtree(workdir / "la" / "checkpoints")
    before, config = _checksums(workdir), _config(**{"evaluation.num_neighbors": 3})
    _run(workdir, _config())
    with pytest.raises(StageError, match="needs the checkpoints of la, .* --stages=la,evaluate"):
        _run(workdir, config, ["evaluate"])
    assert _checksums(workdir) == before
    found = {finding.subject: finding for finding in doctor.folder(workdir)}
    assert found["la"].state == "complete, without its checkpoints"
    assert found["la"].advice == "--stages=la makes them again"
    with pytest.raises(_BegunError, match="la"):
        _run(workdir, config, ["la", "evaluate"])


def test_a_moved_run_is_complete_and_reads_its_own_videos(complete, tmp_path):
    copied = shutil.copytree(complete, tmp_path / "copied")
    _run(copied, _config())
    assert all(Path(p).is_relative_to(copied) for p in workdirs.manifest(copied).paths)
    findings = {finding.subject: finding for finding in doctor.folder(copied)}
    assert findings["videos"].state == "40 videos" and not findings["videos"].bad
    (copied / "manifest" / "videos" / "video00003.mp4").unlink()
    missing = {finding.subject: finding for finding in doctor.folder(copied)}["videos"]
    assert missing.bad and "1 of 40 files do not exist, first " in missing.state
    assert str(copied / "manifest" / "videos" / "video00003.mp4") in missing.state
