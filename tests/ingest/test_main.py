"""The command, and runs that share what it made."""

import sys

import numpy as np
import pytest

from vcjax import settings
from vcjax.data import manifest as manifests
from vcjax.data import readers
from vcjax.idt import extraction
from vcjax.idt.trajectories import COLUMNS, Trajectories
from vcjax.ingest import __main__ as command
from vcjax.ingest.collection import Collection
from vcjax.pipeline import build
from vcjax.pipeline import workdir as workdirs
from vcjax.runtime import stage_cache

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
SETTINGS = {"fisher.num_components": 2, "clip.side": 16, "data.seed": 0, "num_workers": 1}


@pytest.fixture
def ingest(videos, tmp_path):
    def ingest(*more, also=()):
        flags = [f"--config.{key}={value}" for key, value in (SETTINGS | dict(also)).items()]
        where = [str(tmp_path / "videos"), str(tmp_path / "c")]
        command.main([*where, "--config=la_idt.py:folder", "--num_workers=1", *flags, *more])
        return Collection.open(tmp_path / "c")

    return ingest


@pytest.fixture(autouse=True)
def random_trajectories(monkeypatch):
    """Replace the extraction by random trajectories that depend on the frames."""

    def extract(frames, **how):
        generator = np.random.default_rng(int(sum(frame.sum() for frame in frames)))
        yield Trajectories(*(generator.random((20, width)) for width in COLUMNS.values()))

    monkeypatch.setattr(extraction, "extract_frames", extract)


def stages(tmp_path, name, **changed):
    config = settings.apply_variants(settings.paper(), "folder")
    config.stages = ("manifest", "ingest", "fisher")
    config.data.collection = str(tmp_path / "c")
    config.update_from_flattened_dict(SETTINGS | changed)
    stage_cache.run(build.build(config, tmp_path / name), tmp_path / name)
    return config


def test_two_runs_read_one_collection_and_change_nothing_in_it(ingest, tmp_path, monkeypatch):
    collection = ingest()
    files = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "c").rglob("*.*")}
    monkeypatch.setattr(readers, "_VideoFile", None)  # no original is read
    for k in (2, 3):
        (tmp_path / f"run{k}").mkdir()
        config = stages(tmp_path, f"run{k}", **{"clusters.num_clusters": k})
        manifest = workdirs.manifest(tmp_path / f"run{k}")
        assert {p.partition("#")[0] for p in manifest.paths} == {
            str(p) for p in (tmp_path / "c" / "parts").glob("*.array_record")
        }
        vectors = workdirs.fisher_vectors(config, tmp_path / f"run{k}", manifest)
        assert len(vectors.vectors) == 7 and vectors.has_vector.all()
        assert not (tmp_path / f"run{k}" / "ingest" / "collection").exists()
    after = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "c").rglob("*.*")}
    assert after == files and collection.pictures.side == 32


def test_models_are_fitted_to_the_training_videos_of_the_runs(ingest, tmp_path):
    collection = ingest()
    (tmp_path / "run").mkdir()
    config = stages(tmp_path, "run")
    training = workdirs.manifest(tmp_path / "run").subset("train").video_ids
    assert collection.fitted_to(workdirs.variant(config)) == training


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"clip.side": 48}, "clip.side=48 needs .* have 32; .*vcjax ingest VIDEOS .* --side 96"),
        ({"fisher.num_components": 3}, "no Fisher vectors of descriptors all, 3 components"),
        ({"data.seed": 1}, "no Fisher vectors of .*seed 1.*available: .*seed 0"),
        ({"data.collection": "/no/such"}, "not a collection; make one with `vcjax ingest"),
    ],
)
def test_a_run_that_needs_more_is_refused(ingest, tmp_path, changed, message):
    ingest()
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match=message):
        stages(tmp_path, "run", **changed)
    assert not [p for p in (tmp_path / "run").iterdir() if p.name != "run.lock"]


def test_larger_frames_are_made_by_the_command_of_the_refusal(ingest, tmp_path):
    ingest()
    ingest("--side=96")
    (tmp_path / "run").mkdir()
    stages(tmp_path, "run", **{"clip.side": 48})


def test_also_adds_variants(ingest, capsys):
    collection = ingest("--also=fisher.num_components=3;fisher.descriptors=('hof','mbh')")
    described = [variant.describe() for variant in collection.variants()]
    assert sorted("3 components" in text for text in described) == [False, True]
    assert "hof+mbh, 3 components" in capsys.readouterr().out
    assert len(ingest("--no_vectors").variants()) == 2


def test_shards_are_counted_from_one(ingest, tmp_path):
    ingest("--shard=2/2")
    assert not (tmp_path / "c" / "index.tsv").exists()
    with pytest.raises(manifests.ManifestError, match="incomplete; run `vcjax ingest` again"):
        Collection.open(tmp_path / "c").manifest()
    assert len(ingest("--shard=1/2").manifest()) == 7
    for text in ("0/2", "3/2", "2"):
        with pytest.raises(SystemExit, match=f"--shard is '{text}'; use I/N"):
            ingest(f"--shard={text}")


def test_errors_are_one_line(ingest, monkeypatch):
    with pytest.raises(SystemExit, match="there is no setting --config.fisher.x"):
        ingest("--config.fisher.x=1")
    with pytest.raises(SystemExit, match="idt.matcher is 'x'; use one of flow, surf"):
        ingest("--config.idt.matcher=x")
    with pytest.raises(SystemExit, match="2"):
        ingest("--unknown")
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    without = "pip install .*; --config.idt.detector=none computes"
    with pytest.raises(SystemExit, match=without):
        ingest("--config.idt.detector=maskrcnn")
