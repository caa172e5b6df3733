import json

import numpy as np
import pytest

from vcjax import doctor
from vcjax.data import manifest as manifests
from vcjax.data import prepare, synthetic
from vcjax.ingest.collection import Pictures
from vcjax.ingest.ingest import ingest
from vcjax.ingest.plan import Options
from vcjax.runtime import checkpoint, npz, stage_cache
from vcjax.runtime.stage_cache import Stage


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def train(directory):
    checkpoints = checkpoint.Checkpoints(directory / "checkpoints")
    for step in (1, 2):
        checkpoints.save(step, {"bank": np.zeros((4, 2), np.float32)})
    checkpoints.close()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return manifests.read(synthetic.render(folder, num_videos=2, seed=0, num_workers=1))


@pytest.fixture
def run(tmp_path, videos):
    def read(directory):
        root, pictures = directory / "collection", Pictures(16, "jpeg")
        ingest(videos, root, pictures, [], Options(1), training=())

    stage_cache.run(
        [
            Stage("manifest", {}, (), lambda d: (d / "manifest.tsv").write_text("path\n") and None),
            Stage("ingest", {}, ("manifest",), read, files=""),
            Stage("ir", {}, ("manifest",), train),
        ],
        tmp_path,
    )
    return tmp_path


def states(folder):
    return {found.subject: found for found in doctor.folder(folder)}


def test_all_is_well(run, capsys):
    found = states(run)
    assert [found[name].state for name in ("manifest", "ingest", "ir")] == ["complete"] * 3
    with pytest.raises(SystemExit) as ended:
        doctor.main([str(run)])
    assert ended.value.code == 0
    assert "complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    "stage, pattern",
    [
        ("manifest", "manifest.tsv"),
        ("ingest", "collection/parts/*.array_record"),
        ("ingest", "collection/parts/*.json"),
        ("ir", "checkpoints/1/state/_METADATA"),
        ("ir", "checkpoints/2/checksums.json"),
        ("ir", "stage.json"),
    ],
)
def test_damage_is_named_with_what_to_do_and_is_an_exit_code(run, capsys, stage, pattern):
    (path,) = (run / stage).glob(pattern)
    flip(path)
    found = states(run)
    assert [name for name, finding in found.items() if finding.bad] == [stage]
    assert str(path) in found[stage].state
    assert "run again" in found[stage].advice
    with pytest.raises(SystemExit) as ended:
        doctor.main([str(run)])
    assert ended.value.code == 1
    assert str(path) in capsys.readouterr().out


def test_damaged_features_are_named(run):
    path = run / "features" / "evaluate-ir-0.npz"
    npz.write(path, {"pooled": np.ones(9)})
    assert "features" not in states(run)
    flip(path)
    assert states(run)["features"].bad


def test_a_stage_whose_input_changed_is_stale(run):
    record = json.loads((run / "manifest" / "stage.json").read_text())
    record = {k: v for k, v in record.items() if k != "checksum"} | {"digest": "another"}
    (run / "manifest" / "stage.json").write_text(json.dumps(record))
    assert states(run)["ir"].state == "stale: input manifest has changed"


def test_a_stage_that_was_interrupted_says_how_far_it_is(run):
    def fail(directory):
        train(directory)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage_cache.run([Stage("la", {}, (), fail)], run)
    assert states(run)["la"].state == "incomplete, checkpoint of step 2"
    assert not states(run)["la"].bad


def test_damaged_shards_are_named(tmp_path):
    videos = synthetic.render(tmp_path / "videos", num_videos=3, seed=0, num_workers=1)
    how = dict(side=16, codec="jpeg", videos_per_shard=1, num_workers=1, on_error="error")
    prepare.prepare(manifests.read(videos), tmp_path / "out", **how)
    assert not any(found.bad for found in states(tmp_path / "out").values())
    shard = sorted((tmp_path / "out").glob("*.array_record"))[1]
    content = bytearray(shard.read_bytes())
    content[content.index(b"JPEG") + 100] ^= 1
    shard.write_bytes(content)
    from vcjax.data import shards

    shards._reader.cache_clear()
    bad = [found for found in states(tmp_path / "out").values() if found.bad]
    assert len(bad) == 1 and str(shard) in bad[0].state
    flip(tmp_path / "out" / "index.tsv")
    assert "index.tsv: damaged" in states(tmp_path / "out")["index"].state


def test_packages_are_held_against_their_bounds(tmp_path, monkeypatch):
    folder = tmp_path / "fake-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: fake\nVersion: 1.0\n"
        "Requires-Dist: numpy>=99\nRequires-Dist: jax>=0.1\n"
        "Requires-Dist: not-there-at-all>=1; extra == 'more'\nProvides-Extra: more\n"
        "Requires-Dist: flax>=0.1; extra == 'net'\nProvides-Extra: net\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    required, whole, lacking = doctor.packages("fake")
    assert required.bad and required.state == f"numpy {np.__version__} is not >=99"
    assert whole.state == "net"
    assert lacking.state == "without more (no not-there-at-all)" and not lacking.bad


def test_the_machine_is_told():
    found = {finding.subject: finding for finding in doctor.machine()}
    assert "8 x cpu" in found["devices"].state
    assert "h264" in found["decoders"].state
    assert not found["packages"].bad
