"""Object stores, for which fsspec's store in memory stands in."""

import uuid

import fsspec
import numpy as np
import pytest
import tenacity

from vcjax.data import __main__ as command
from vcjax.data import clips, manifest, prepare, shards, verify, video
from vcjax.runtime import filesystem

HOW = dict(side=32, codec="jpeg", videos_per_shard=4, num_workers=1, on_error="error")
READ = dict(num_frames=4, side=24, scales=(1.0,), batch_size=4, num_epochs=1, seed=0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VCJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tenacity.nap.time, "sleep", lambda seconds: None)
    filesystem.cached.cache_clear()
    shards._reader.cache_clear()
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def store():
    return fsspec.filesystem("memory")


@pytest.fixture(scope="module")
def videos(collection, store):
    """The address of a copy of the collection."""
    for path in collection.paths:
        store.put_file(path, f"/videos/{'/'.join(path.split('/')[-2:])}")
    return "memory://videos"


@pytest.fixture
def out():
    return f"memory://{uuid.uuid4().hex}"


def batches(read):
    dataset = clips.training_clips(read, **READ)
    return list(clips.iterate(dataset, num_workers=0, num_threads=2))


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        for name in ("clip", "index", "key"):
            np.testing.assert_array_equal(a[name], b[name])


def test_a_remote_folder_is_the_folder(videos, collection):
    read, problems = verify.verify(
        manifest.read(videos), on_error="error", decode=True, num_workers=1
    )
    assert not problems and read.paths[0].startswith("memory://videos/class0/")
    assert (read.video_ids, read.labels) == (collection.video_ids, collection.labels)
    assert read.num_frames == collection.num_frames
    assert_same(batches(read), batches(collection))


def test_a_table_names_files_elsewhere(videos, collection, tmp_path):
    table = tmp_path / "videos.tsv"
    table.write_text(f"path\tvideo_id\n{videos}/class0/video00.mp4\tfirst\n")
    (path,) = manifest.read(table).paths
    np.testing.assert_array_equal(video.clip(path, 1, 3), video.clip(collection.paths[0], 1, 3))
    with pytest.raises(video.DecodeError, match="memory://videos/none.mp4: no such file"):
        video.probe("memory://videos/none.mp4", decode=False)


@pytest.mark.parametrize("from_remote", [True, False])
def test_shards_in_a_store_are_those_on_disk(videos, collection, out, tmp_path, cache, from_remote):
    source = manifest.read(videos) if from_remote else collection
    there, _ = prepare.prepare(source, filesystem.path_of(out), **HOW)
    here, _ = prepare.prepare(collection, tmp_path / "out", **HOW)
    assert there.video_ids == here.video_ids and there.num_frames == here.num_frames
    assert_same(batches(manifest.read(out)), batches(here))
    assert len(list(cache.glob("*.array_record"))) == 3  # each fetched once


def test_only_a_shard_whose_video_changed_is_written_and_fetched_again(
    store, out, cache, write_video, tmp_path
):
    source = tmp_path / "in"
    for i in range(8):
        write_video(source / f"v{i}.mp4", 5, phase=i)
    run = lambda: prepare.prepare(manifest.read(source), filesystem.path_of(out), **HOW)[0]  # noqa: E731
    written = lambda: {  # noqa: E731
        path: store.info(path)["created"] for path in store.glob(f"{out}/*.array_record")
    }
    batches(run())
    before, signature = written(), manifest.signature(out)
    run()
    assert written() == before and manifest.signature(out) == signature
    write_video(source / "v7.mp4", 5, phase=70)
    after = run()
    first, second = sorted(written())
    assert written()[first] == before[first] and written()[second] != before[second]
    assert manifest.signature(out) != signature
    filesystem.cached.cache_clear()
    shards._reader.cache_clear()
    batches(after)
    assert len(list(cache.glob("*.array_record"))) == 3


def test_what_time_may_mend_is_tried_again_and_what_it_may_not_is_not():
    failures = [ConnectionError("reset"), TimeoutError("slow")]

    def work():
        if failures:
            raise failures.pop()
        return "done"

    assert filesystem.retry(work) == "done"
    for error, times in ((FileNotFoundError, 1), (ConnectionError, filesystem._ATTEMPTS)):
        count = []

        def fail(error=error, count=count):
            count.append(0)
            raise error("no")

        with pytest.raises(error):
            filesystem.retry(fail)
        assert len(count) == times


def test_scan_and_prepare_take_addresses(videos, out, tmp_path, capsys):
    table = tmp_path / "table.tsv"
    command.main(["scan", videos, "--out", str(table)])
    assert "11 videos of 2 classes" in capsys.readouterr().out
    command.main(["prepare", str(table), out, "--num_workers=1", "--side=32"])
    assert len(manifest.read(out)) == 11
    assert "11 videos, about 0." in capsys.readouterr().out


def test_a_file_address_is_a_path(collection):
    folder = collection.paths[0].rpartition("/class0")[0]
    assert manifest.read(f"file://{folder}").paths == collection.paths


@pytest.mark.parametrize("address", ["rtsp://camera/x.mp4", "nonsense://x/y.mp4"])
def test_an_address_without_a_file_system_is_named(address, tmp_path):
    with pytest.raises(ValueError, match=f"^{address}: .*; copy the file to a local folder"):
        filesystem.path_of(address)
