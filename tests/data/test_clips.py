import os
import resource
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from vcjax.data import clips, manifest, video

SETTINGS = dict(num_frames=4, side=32, batch_size=4, seed=0)


def training(collection, scales=(1.0, 0.7), num_epochs=3, **changed):
    settings = SETTINGS | changed
    return clips.training_clips(collection, scales=scales, num_epochs=num_epochs, **settings)


def batches(dataset, num_workers=0, num_threads=2):
    return list(clips.iterate(dataset, num_workers=num_workers, num_threads=num_threads))


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        for name in ("clip", "index", "key"):
            np.testing.assert_array_equal(a[name], b[name])


def test_batches_have_the_shapes_and_types_promised(collection):
    for batch in batches(training(collection)):
        assert batch["clip"].shape == (4, 4, 32, 32, 3) and batch["clip"].dtype == np.uint8
        assert batch["index"].dtype == np.int32 and batch["key"].dtype == np.uint32


def test_an_epoch_has_no_video_twice_and_an_order_of_its_own(collection):
    seen = [batch["index"] for batch in batches(training(collection, num_epochs=8))]
    epochs = np.concatenate(seen).reshape(8, 8)  # 11 videos are 2 batches of 4
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 8
    assert set(epochs.flat) == set(range(11))


def test_a_batch_of_each_size_has_every_video_once(collection):
    (batch,) = batches(training(collection, num_epochs=1, batch_size=11))
    assert sorted(batch["index"]) == list(range(11))


def test_threads_do_not_matter(collection):
    assert_same(batches(training(collection)), batches(training(collection), num_threads=5))


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted as Linux does")
def test_memory_of_one_batch_is_that_of_the_next(collection):
    dataset = training(collection, num_frames=16, side=112, batch_size=8, num_epochs=40)
    for step in range(10):
        dataset[step]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for step in range(10, 40):
        dataset[step]
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < 30 * 8 * 5  # of the 147 pages of a clip, and those of what it is cut from


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("step", [0, 3])
def test_processes_do_not_matter_from_any_step(collection, num_workers, step):
    dataset = training(collection)
    assert_same(batches(dataset)[step:], batches(dataset[step:], num_workers=num_workers))


@pytest.mark.parametrize("step", [1, 2, 5])
def test_going_on_from_a_step_is_never_having_stopped(collection, step):
    dataset = training(collection)
    assert_same(batches(dataset[step:]), batches(dataset)[step:])


def test_seeds_repeat_and_differ(collection):
    first, again, other = (batches(training(collection, seed=seed)) for seed in (0, 0, 1))
    assert_same(first, again)
    assert any((a["index"] != b["index"]).any() for a, b in zip(first, other, strict=True))


def test_keys_are_those_of_no_other_clip(collection):
    keys = np.concatenate([batch["key"] for batch in batches(training(collection))])
    assert len(set(keys)) == len(keys)


def test_a_clip_is_cut_from_the_video_of_its_index(collection):
    places = set()
    dataset = training(collection, scales=(1.0,), side=48, num_epochs=4)  # as high as the videos
    for batch in batches(dataset):
        for clip, row in zip(batch["clip"], batch["index"], strict=True):
            whole = np.stack(list(video.frames(collection.paths[row])))
            found = [
                (start, left)
                for start in range(len(whole) - 3)
                for left in range(64 - 48 + 1)
                if np.array_equal(whole[start : start + 4, :, left : left + 48], clip)
            ]
            assert len(found) == 1
            places.update(found)
    assert len(places) > 20  # starts and crops differ


def test_evaluation_goes_through_all_videos_in_order(collection):
    settings = SETTINGS | {"side": 48}
    dataset = clips.evaluation_clips(collection, clips_per_video=3, **settings)
    found = batches(dataset)
    index = np.concatenate([batch["index"] for batch in found])
    assert index.tolist() == np.repeat(np.arange(11), 3).tolist() + [-1] * 3
    whole = np.stack(list(video.frames(collection.paths[1])))
    start = clips.clip_starts(len(whole) - 4, 3, seed=0)[2]
    sixth = found[1]["clip"][1]  # the third clip of the second video, its centre
    np.testing.assert_array_equal(sixth, whole[start : start + 4, :, 8:56])


def test_evaluation_resizes_the_short_side(collection):
    dataset = clips.evaluation_clips(collection, clips_per_video=1, **SETTINGS | {"side": 24})
    half = np.stack(list(video.frames(collection.paths[0])))[0].astype(float)
    half = half.reshape(24, 2, 32, 2, 3).mean(axis=(1, 3))[:, 4:28]
    np.testing.assert_allclose(batches(dataset)[0]["clip"][0, 0], half, atol=1)


def test_evaluation_leaves_out_a_file_that_has_vanished_only_where_asked_to(collection, tmp_path):
    paths = (*collection.paths[:3], str(tmp_path / "gone.mp4"), *collection.paths[4:])
    gone = replace(collection, paths=paths)
    dataset = lambda **how: clips.evaluation_clips(gone, clips_per_video=1, **SETTINGS, **how)  # noqa: E731
    with pytest.raises(video.DecodeError, match="gone.mp4"):
        batches(dataset())
    index = np.concatenate([batch["index"] for batch in batches(dataset(skip_bad=True))])
    assert index.tolist() == [0, 1, 2, -1, *range(4, 11), -1]


def test_a_mild_shrink_is_within_a_grey_level_of_the_means_of_areas(collection):
    frames = np.stack(list(video.frames(collection.paths[0])))
    found = clips._resize(frames, 42, 56)
    means = [cv2.resize(frame, (56, 42), interpolation=cv2.INTER_AREA) for frame in frames]
    assert np.abs(found.astype(int) - means).mean() < 1


def test_random_starts_are_in_order_and_reach_both_ends():
    starts = clips.clip_starts(5, 200, seed=0)
    assert (np.diff(starts) >= 0).all() and set(starts) == set(range(6))
    assert clips.clip_starts(5, 1, seed=0) == [2] and clips.clip_starts(0, 1, seed=0) == [0]


@pytest.mark.parametrize("stride, last", [(1, 10), (2, 7), (4, 1)])
def test_a_clip_of_any_stride_fits_into_its_video(collection, stride, last):
    longest = clips.evaluation_clips(
        collection, clips_per_video=60, **SETTINGS | {"side": 48, "batch_size": 1}, stride=stride
    )[-60:]
    whole = np.stack(list(video.frames(collection.paths[-1])))[:, :, 8:56]
    starts = {
        start
        for batch in batches(longest)
        for start in range(len(whole) - 3 * stride)
        if np.array_equal(whole[start : start + 3 * stride + 1 : stride], batch["clip"][0])
    }
    assert starts == set(range(last + 1))


def test_a_video_shorter_than_a_clip_loops(collection):
    (batch,) = batches(
        training(collection, num_frames=32, num_epochs=1, batch_size=11, scales=(1.0,))
    )
    for clip, row in zip(batch["clip"], batch["index"], strict=True):
        length = collection.num_frames[row]
        np.testing.assert_array_equal(clip[length:], clip[:-length])


@pytest.fixture
def damaged(collection, tmp_path):
    """The collection with its fourth video cut off after it was verified."""
    path = tmp_path / "cut.mp4"
    path.write_bytes(Path(collection.paths[3]).read_bytes()[:200])
    return replace(collection, paths=(*collection.paths[:3], str(path), *collection.paths[4:]))


def test_a_file_damaged_since_is_replaced_the_same_in_every_run(collection, damaged):
    how = dict(batch_size=11, num_epochs=2)
    found, again = batches(training(damaged, **how)), batches(training(damaged, **how), 1)
    assert_same(found, again)
    for batch, whole in zip(found, batches(training(collection, **how)), strict=True):
        (place,) = np.flatnonzero(whole["index"] == 3)
        others = np.arange(11) != place
        assert batch["bad"][place] == 3 and (batch["bad"][others] == -1).all()
        assert batch["index"][place] != 3
        np.testing.assert_array_equal(batch["clip"][others], whole["clip"][others])


def test_a_file_that_vanishes_is_replaced_as_a_damaged_one(collection, damaged):
    before = batches(training(damaged, batch_size=11))
    Path(damaged.paths[3]).unlink()
    assert_same(batches(training(damaged, batch_size=11)), before)


def test_damaged_files_are_told_at_the_end_and_too_many_stop_the_run(damaged, caplog):
    def run(max_corrupt_fraction):
        found = batches(training(damaged, batch_size=11, num_epochs=2))
        return list(
            clips.limit_bad_videos(found, damaged, max_corrupt_fraction=max_corrupt_fraction)
        )

    assert len(run(0.1)) == 2
    assert "1 videos were replaced" in caplog.text and damaged.video_ids[3] in caplog.text
    with pytest.raises(
        manifest.ManifestError, match=f"max_corrupt_fraction=0.05.*\n.*{damaged.video_ids[3]}"
    ):
        run(0.05)


@pytest.mark.parametrize(
    "platform,num_cores,num_workers,expected",
    [("cpu", 64, 0, 2), ("tpu", 112, 0, 8), ("gpu", 6, 0, 6), ("gpu", 12, 4, 3)],
)
def test_reading_threads_follow_the_platform(
    monkeypatch, platform, num_cores, num_workers, expected
):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(os, "cpu_count", lambda: num_cores)
    assert clips.default_threads(num_workers) == expected
