"""A disk that is full while checkpoints, shards or trajectories are written, or read-only."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from fisher.vectors import FisherVectors
from vcjax.data import manifest as manifests
from vcjax.data import prepare, synthetic, video
from vcjax.idt import collection, storage
from vcjax.runtime import checkpoint, stage_record

MEGABYTE = 1 << 20


@pytest.fixture
def disk(tmp_path):
    """A disk of 4 MB."""
    with mounted(tmp_path / "disk", megabytes=4) as folder:
        yield folder


@contextlib.contextmanager
def mounted(folder, *, megabytes):
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk cannot be mounted here: {error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk, *, leave):
    """A file that takes all space but `leave` bytes."""
    size = shutil.disk_usage(disk).free - leave
    (disk / "filling").write_bytes(bytes(size))
    return disk / "filling"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return manifests.read(synthetic.render(folder, num_videos=3, seed=0, num_workers=1))


def state(step):
    return {"bank": jax.random.normal(jax.random.key(step), (200, 1000))}  # 0.8 MB


@pytest.mark.parametrize("leave", [0, MEGABYTE // 4], ids=["folder", "array"])
def test_full_disk_at_a_checkpoint(disk, capfd, leave):
    """Orbax cannot write its own files, which is an OSError, or arrays, which is a ValueError."""
    checkpoints = checkpoint.Checkpoints(disk / "checkpoints")
    checkpoints.save(1, state(1))
    checkpoints._manager.wait_until_finished()
    filling = fill(disk, leave=leave)
    with pytest.raises(checkpoint.CheckpointError) as caught:
        checkpoints.save(2, state(2))
        checkpoints.close()
    reason = "a checkpoint cannot be written: No space left on device"
    intact = "the checkpoint of step 1 is intact"
    assert str(caught.value) == f"{disk}/checkpoints: {reason}; {intact}"
    assert "Traceback" not in capfd.readouterr().err
    filling.unlink()
    checkpoints = checkpoint.Checkpoints(disk / "checkpoints")
    assert checkpoints.latest == 1
    np.testing.assert_array_equal(checkpoints.restore(state(0))["bank"], state(1)["bank"])
    checkpoints.save(2, state(2))
    checkpoints.close()
    restored = checkpoint.restore_part(disk / "checkpoints", state(0))
    np.testing.assert_array_equal(restored["bank"], state(2)["bank"])


@pytest.mark.parametrize("leave", [0, 20_000, 300_000])
def test_full_disk_while_shards_are_written(disk, videos, leave):
    how = dict(side=64, codec="jpeg", videos_per_shard=2, num_workers=1, on_error="error")
    filling = fill(disk, leave=leave)
    with pytest.raises((OSError, ValueError), match="No space left on device") as caught:
        prepare.prepare(videos, disk / "out", **how)
    assert "\n" not in str(caught.value)
    assert not (disk / "out" / "index.tsv").exists()
    filling.unlink()
    found, problems = prepare.prepare(videos, disk / "out", **how)
    assert not problems
    counts = [len(list(video.frames(path))) for path in found.paths]
    assert counts == list(found.num_frames) and min(counts) > 0


def test_full_disk_while_trajectories_are_written(disk, videos):
    named = dict(zip(videos.video_ids, videos.paths, strict=True))
    how = dict(matcher="flow", people=None, num_workers=1, on_error="error")
    (disk / "idt").mkdir()
    filling = fill(disk, leave=MEGABYTE // 16)
    with pytest.raises(ValueError, match="No space left on device"):
        collection.extract_collection(named, disk / "idt", **how)
    filling.unlink()
    counts = collection.extract_collection(named, disk / "idt", **how)
    assert {path.name for path in (disk / "idt").iterdir()} == {
        storage.path_of(disk, video_id).name for video_id in named
    }
    for video_id, count in counts.items():
        assert storage.read(storage.path_of(disk / "idt", video_id)).num_rows == count


def test_full_disk_leaves_the_vectors_that_were_there(disk):
    def vectors(seed):
        values = np.random.default_rng(seed).normal(size=(100, 2000)).astype(np.float32)
        return FisherVectors(tuple(f"v{i}" for i in range(100)), values, np.ones(100, bool))

    path = disk / "vectors.npz"
    vectors(0).save(path)
    filling = fill(disk, leave=MEGABYTE // 4)
    with pytest.raises(OSError, match="No space left on device"):
        vectors(1).save(path)
    np.testing.assert_array_equal(FisherVectors.load(path).vectors, vectors(0).vectors)
    filling.unlink()
    vectors(1).save(path)
    np.testing.assert_array_equal(FisherVectors.load(path).vectors, vectors(1).vectors)
    assert [p.name for p in disk.iterdir()] == ["vectors.npz"]


@contextlib.contextmanager
def read_only(disk):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


def test_read_only_folder_is_said(disk, videos):
    how = dict(side=64, codec="jpeg", num_workers=1, on_error="error")
    checkpoints = checkpoint.Checkpoints(disk / "checkpoints")
    with read_only(disk):
        with pytest.raises(OSError, match="Read-only file system"):
            prepare.prepare(videos, disk / "out", **how)
        with pytest.raises(checkpoint.CheckpointError, match="Read-only file system"):
            checkpoints.save(1, state(1))
            checkpoints.close()
    assert os.listdir(disk) == ["checkpoints"]
    assert not list(Path(disk / "checkpoints").iterdir())


@pytest.mark.slow
def test_full_disk_in_a_run_that_goes_on_when_there_is_space(small_run, finished, result, tmp_path):
    names = ("manifest", "ingest", "fisher", "ir", "evaluate")
    undisturbed = shutil.copytree(finished, tmp_path / "undisturbed")
    small_run.finish(undisturbed, names)
    checkpoint_size = sum(
        p.stat().st_size for p in (finished / "ir" / "checkpoints" / "2").rglob("*")
    )
    with mounted(tmp_path / "run", megabytes=64) as workdir:
        without = shutil.ignore_patterns("ir", "metrics.jsonl", "tensorboard")
        shutil.copytree(finished, workdir, ignore=without, dirs_exist_ok=True)
        reason = "a checkpoint cannot be written: No space left on device"
        intact = "the checkpoint of step 1 is intact"
        no_space = "[Errno 28] No space left on device; free space for"
        # of the two checkpoints one fits; then the other does, but not all pages of the evaluation,
        # however much of it was written before
        filling = fill(workdir, leave=checkpoint_size * 4 // 3)
        for stage, said in (
            ("ir", f"{workdir}/ir/checkpoints: {reason}; {intact}"),
            ("evaluate", f"{no_space} {workdir}, then resume with the same command"),
        ):
            assert small_run.start(workdir, names).wait() == 1
            log = (tmp_path / "run.log").read_text()
            # beside what tensorstore prints, at times, of the other arrays that it could not write
            assert f"vcjax: {said}" in log.splitlines(), log
            assert str(Path(checkpoint.__file__).parent) not in log  # no traceback of ours
            assert not stage_record.read(workdir / stage)["complete"]
            assert not (workdir / "report.json").exists()
            os.truncate(filling, filling.stat().st_size - checkpoint_size)
        filling.unlink()
        small_run.finish(workdir, names)
        (arrays, report), (expected, wanted) = result(workdir), result(undisturbed)
    assert report == wanted and report["models"]["ir"]
    assert arrays.keys() == expected.keys() and "ir/2['bank']" in arrays
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    print(f"{len(arrays)} arrays and the report are those of an undisturbed run")
