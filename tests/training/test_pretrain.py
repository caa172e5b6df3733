"""The loop on a few rendered videos: equal seeds, resuming, and what a row belongs to."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import vcjax
from fisher.vectors import FisherVectors
from vcjax import settings
from vcjax.data import manifest as manifests
from vcjax.data import splits, synthetic, verify
from vcjax.runtime import sharding
from vcjax.training import batches, changed_videos, fisher_bank, pretrain
from vcjax.training.step import TrainState


@pytest.fixture(scope="module", autouse=True)
def two_devices():
    """Enough to split rows; eight take longer to compile for than all of these runs."""
    with pytest.MonkeyPatch.context() as patch:
        make = sharding.make
        patch.setattr(sharding, "make", lambda num_devices=2: make(num_devices))
        yield


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    source = synthetic.render(folder, num_videos=24, seed=0, num_workers=1)
    counted, _ = verify.verify(manifests.read(source), on_error="error", decode=True, num_workers=1)
    return splits.assign_split(counted, group="scene", holdout=0.3, seed=0)


def _config():
    config = settings.apply_variants(settings.paper(), "smoke")
    config.epochs_scale = 1.0
    config.clip.num_frames, config.clip.side = 4, 16
    config.model.width = 4
    for stage in (config.ir, config.la, config.tune):
        stage.epochs, stage.batch_size, stage.lr_milestones, stage.validate_epochs = 3, 8, (), 3
    config.clusters.num_clusters = 3
    return config


def _vectors(training):
    generator = np.random.default_rng(5)
    vectors = generator.normal(size=(len(training), 6)).astype(np.float32)
    has_vector = np.arange(len(training)) != 2
    return FisherVectors(training.video_ids, vectors * has_vector[:, None], has_vector)


def _pretrain(name, videos, workdir, config=None):
    training, config = videos.subset("train"), config or _config()
    changed_videos.remap_checkpoint(  # as vcjax.pipeline.pretrain does
        training.video_ids,
        lambda: pretrain.checkpoint_template(name, config, len(training)),
        workdir / name / "checkpoints",
        batch_size=config[name].batch_size,
        max_share=config.data.max_changed_share,
        seed=config.seed,
    )
    pretrain.pretrain(
        name,
        config,
        train=training,
        test=videos.subset("test"),
        fisher=_vectors(training),
        workdir=workdir,
    )
    return _state(workdir / name)


def _state(directory):
    with ocp.CheckpointManager(directory / "checkpoints", item_names=("state",)) as manager:
        restored = manager.restore(
            manager.latest_step(), args=ocp.args.Composite(state=ocp.args.StandardRestore())
        )
    return {k: [np.asarray(x) for x in jax.tree.leaves(v)] for k, v in restored["state"].items()}


def _assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def undisturbed(videos, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    return workdir, {name: _pretrain(name, videos, workdir) for name in ("ir", "la")}


class _Killed(BaseException):
    pass


def _kill(monkeypatch, step):
    training_batches = batches.training_batches

    def killed(*arguments):
        for count, batch in enumerate(training_batches(*arguments)):
            if count == step:
                raise _Killed
            yield batch

    monkeypatch.setattr(batches, "training_batches", killed)


@pytest.mark.slow
def test_killed_stage_continues_from_its_checkpoint_to_the_same_end(
    videos, undisturbed, tmp_path, monkeypatch, caplog
):
    shutil.copytree(undisturbed[0] / "ir", tmp_path / "ir")
    _kill(monkeypatch, 3)
    with pytest.raises(_Killed):
        _pretrain("la", videos, tmp_path)
    monkeypatch.undo()
    with caplog.at_level("INFO"):
        resumed = _pretrain("la", videos, tmp_path)
    assert "la: continues from the checkpoint of step 2 of 6" in caplog.text
    _assert_equal(resumed, undisturbed[1]["la"])
    steps = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [e["step"] for e in steps if "loss" in e] == [2, 4, 6]


def test_fixed_bank_is_not_updated_by_training(videos, undisturbed, tmp_path):
    config = _config()
    config.la.bank, config.la.epochs = "fisher", 1
    shutil.copytree(undisturbed[0] / "ir", tmp_path / "ir")
    state, before = _pretrain("la", videos, tmp_path, config), undisturbed[1]["ir"]
    bank, devices = before["bank"][0], sharding.make()
    vectors = _vectors(videos.subset("train"))
    expected = fisher_bank.fill(sharding.shard_rows(bank, devices), vectors, devices)
    np.testing.assert_array_equal(state["bank"][0], expected)
    np.testing.assert_array_equal(state["bank"][0][2], bank[2])  # has no vector
    assert not np.array_equal(state["params"][0], before["params"][0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ir", "la"])
def test_more_epochs_of_a_complete_stage_end_as_if_there_had_always_been_as_many(
    videos, undisturbed, tmp_path, name
):
    config = _config()
    config[name].epochs = 5
    for workdir in (tmp_path / "continued", tmp_path / "straight"):
        shutil.copytree(undisturbed[0] / "ir", workdir / "ir")
    shutil.rmtree(tmp_path / "straight" / name, ignore_errors=True)
    shutil.copytree(undisturbed[0] / name, tmp_path / "continued" / name, dirs_exist_ok=True)
    continued = _pretrain(name, videos, tmp_path / "continued", config)
    lines = (tmp_path / "continued" / "metrics.jsonl").read_text().splitlines()
    assert min(json.loads(line)["step"] for line in lines) == 6  # the old end
    _assert_equal(continued, _pretrain(name, videos, tmp_path / "straight", config))


@pytest.mark.slow
def test_neighbors_sought_in_cells_that_hold_all_rows_are_exact(
    videos, undisturbed, tmp_path, monkeypatch
):
    """Killed with two devices, gone on with one; then a video goes, and the others' cells stay."""
    config = _config()
    config.la.num_candidates, config.la.learning_rate = 1000, 1e-4
    exact = _config()
    exact.la.learning_rate = 1e-4
    shutil.copytree(undisturbed[0] / "ir", tmp_path / "exact" / "ir")
    shutil.copytree(undisturbed[0] / "ir", tmp_path / "cells" / "ir")
    expected = _pretrain("la", videos, tmp_path / "exact", exact)
    _kill(monkeypatch, 3)
    with pytest.raises(_Killed):
        _pretrain("la", videos, tmp_path / "cells", config)
    monkeypatch.undo()
    one_device = sharding.make(1)
    monkeypatch.setattr(sharding, "make", lambda: one_device)
    found = _pretrain("la", videos, tmp_path / "cells", config)
    np.testing.assert_allclose(found["bank"][0], expected["bank"][0], atol=1e-4)
    lines = (tmp_path / "cells" / "metrics.jsonl").read_text().splitlines()
    assert 1.0 in [json.loads(line).get("neighbor_recall") for line in lines]

    kept = np.delete(np.arange(len(videos.subset("train"))), 3)
    gone = videos.subset("train").video_ids[3]
    fewer = videos.take([r for r, v in enumerate(videos.video_ids) if v != gone])
    config.data.max_changed_share = 0.2
    after = _pretrain("la", fewer, tmp_path / "cells", config)
    assert len(after["labels"][0]) == config.clusters.num_runs + 1
    np.testing.assert_array_equal(after["labels"][0][:, : len(kept)], found["labels"][0][:, kept])
    _assert_equal(after["cells"], found["cells"])


@pytest.mark.slow
def test_equal_seeds_give_equal_runs_whatever_the_order_of_the_list(videos, undisturbed, tmp_path):
    """The list reversed, read anew: every id has the same bank row, and all else is equal too."""
    columns = ["path\tvideo_id\tsplit\tmotion\tscene"]
    rows = zip(videos.paths, videos.video_ids, videos.split, *videos.labels.values(), strict=True)
    lines = ["\t".join(row) for row in rows]
    (tmp_path / "reversed.tsv").write_text("\n".join(columns + lines[::-1]) + "\n")
    read = manifests.read(tmp_path / "reversed.tsv")
    assert read.video_ids == videos.video_ids
    again = _pretrain("ir", replace(read, num_frames=videos.num_frames), tmp_path)
    _assert_equal(again, undisturbed[1]["ir"])


def test_restored_labels_have_the_sharding_of_the_first_step():
    devices = sharding.make()
    rows = np.arange(8, dtype=np.int32)[None]
    first = TrainState(None, None, None, None, jax.device_put(rows, sharding.columns(devices)))
    arrays = first._asdict() | {"labels": jax.device_put(rows, sharding.replicated(devices))}
    labels = pretrain._restored(first, arrays, 8, devices).labels
    assert labels.sharding == first.labels.sharding  # else the step is compiled again
    np.testing.assert_array_equal(labels, rows)


def test_the_clusters_that_a_stage_was_trained_with_are_in_its_folder(videos, undisturbed):
    workdir, states = undisturbed
    training, table = videos.subset("train"), vcjax.load_clusters(workdir / "la")
    assert table.spaces == ["training/la"]
    labels = states["la"]["labels"][0][1][: len(training)].tolist()
    labels[2] = -1  # has no vector
    assert table.of("training/la", run=1) == dict(zip(training.video_ids, labels, strict=True))
    with pytest.raises(FileNotFoundError, match="no clusters at"):
        vcjax.load_clusters(workdir / "ir")


def test_video_without_a_vector_is_a_cluster_of_its_own(videos, undisturbed):
    labels = undisturbed[1]["la"]["labels"][0]
    assert (labels[:, 2] >= 3).all()
    assert ((labels == labels[:, 2:3]).sum(axis=1) == 1).all()


@pytest.mark.slow
def test_videos_go_and_come_and_no_other_row_or_label_changes(videos, undisturbed, tmp_path):
    """A finished stage, which stays finished."""
    ids = videos.subset("train").video_ids
    gone, new = 3, len(ids) - 1
    fewer = videos.take([r for r, v in enumerate(videos.video_ids) if v != ids[gone]])
    one_more = replace(
        fewer, video_ids=tuple(f"{v}x" if v == ids[new] else v for v in fewer.video_ids)
    )
    shutil.copytree(undisturbed[0] / "la", tmp_path / "la")
    config = _config()
    config.data.max_changed_share = 0.2
    after = _pretrain("la", one_more, tmp_path, config)
    before, kept = undisturbed[1]["la"], [r for r in range(len(ids)) if r not in (gone, new)]
    np.testing.assert_array_equal(after["bank"][0][: len(kept)], before["bank"][0][kept])
    labels, old = after["labels"][0][:, : len(ids) - 1], before["labels"][0][:, : len(ids)]
    np.testing.assert_array_equal(labels[:, : len(kept)], old[:, kept])
    assert (labels[:, -1] > old.max(axis=1)).all()  # the new video is alone
    fresh = after["bank"][0][len(kept)]
    assert np.linalg.norm(fresh) == pytest.approx(1, abs=1e-6)
    assert np.abs(before["bank"][0] @ fresh).max() < 0.99
    _assert_equal(after["params"], before["params"])
    resumed = _pretrain("la", one_more, tmp_path, config)
    _assert_equal(resumed, after)


def test_batch_larger_than_the_collection_names_the_setting(videos, tmp_path):
    config = _config()
    config.ir.batch_size = 256
    with pytest.raises(settings.SettingsError, match="set --config.ir.batch_size"):
        _pretrain("ir", videos, tmp_path, config)


@pytest.mark.parametrize("first", [0, 3])
def test_processes_read_the_parts_of_the_batches_of_one(videos, monkeypatch, first, tmp_path):
    config, training = _config(), videos.subset("train").take(range(10))  # two are left over
    config.ir.batch_size = 4
    devices = sharding.make(1)

    def read():
        found = batches.training_batches("ir", config, training, 3, first, devices, tmp_path)
        return [{k: np.asarray(v) for k, v in batch.items()} for batch in found]

    whole, parts = read(), []
    assert len(whole) == 6 - first
    monkeypatch.setattr(jax, "make_array_from_process_local_data", lambda rows, v: v)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for process in (0, 1):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        parts.append(read())
    for batch, *of_it in zip(whole, *parts, strict=True):
        assert [len(part["index"]) for part in of_it] == [2, 2]
        for name, value in batch.items():
            np.testing.assert_array_equal(value, np.concatenate([p[name] for p in of_it]))
