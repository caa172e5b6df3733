"""Frames that are reduced before trajectories are extracted, with boxes and homographies."""

import numpy as np

from vcjax.idt import collection, extraction
from vcjax.idt.trajectories import IdtSettings


def test_large_frames_are_reported_and_can_be_reduced(tmp_path, write_video, caplog):
    path = write_video(tmp_path / "large.mp4", 2, size=(720, 1440))
    how = dict(matcher="flow", people=None)
    collection.jobs({"large": str(path)}, tmp_path / "a", **how)
    (line,) = caplog.messages
    assert "1 of 1 videos have large frames, up to 1440 x 720 pixels (large)" in line
    collection.jobs({"large": str(path)}, tmp_path / "a", **how, max_side=240)
    assert len(caplog.messages) == 1
    settings = IdtSettings(max_side=240)
    steps = list(extraction.follow(path, extraction.estimated(None, "flow", settings), settings))
    assert [step.picture.shape for step in steps] == [(120, 240, 3)] * 2


def test_boxes_and_homographies_are_reduced_with_the_frames(write_video, tmp_path):
    path = write_video(tmp_path / "video.mp4", 20, size=(128, 192))
    shift = np.tile(np.array([[1, 0, 2], [0, 1, 0], [0, 0, 1.0]]), (19, 1, 1))
    half_shift = np.tile(np.array([[1, 0, 1], [0, 1, 0], [0, 0, 1.0]]), (19, 1, 1))
    small = [step.picture for step in extraction.follow(path, *_motion(shift, 96))]
    reduced = extraction.extract(path, homographies=shift, settings=IdtSettings(max_side=96))
    given = extraction.extract(small, homographies=half_shift)
    np.testing.assert_array_equal(reduced.features, given.features)
    box = [np.array([[20, 20, 100, 100]], np.float32)] * 20
    boxed = extraction.extract(path, people=box, settings=IdtSettings(max_side=96))
    given = extraction.extract(small, people=[b / 2 for b in box])
    np.testing.assert_array_equal(boxed.features, given.features)


def _motion(homographies, max_side):
    return extraction._given(homographies), IdtSettings(max_side=max_side)
