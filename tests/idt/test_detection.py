import json
import os

import numpy as np
import pytest

from vcjax.idt import detection, people


class Marks:
    """Finds the white squares of a frame, largest last."""

    def __call__(self, frame):
        rows, columns = np.nonzero(frame[..., 0] > 200)
        if not len(rows):
            return np.zeros((0, 5), np.float32)
        box = [columns.min(), rows.min(), columns.max(), rows.max(), 0.5]
        small = [0, 0, 2, 2, 0.9]
        return np.float32([small, box])


def test_a_line_a_frame_with_the_largest(write_gray):
    frames = np.zeros((3, 64, 96), np.uint8)
    frames[1, 10:30, 40:61] = 255
    path = write_gray("marks", frames)
    lines = list(detection.lines(path, Marks(), detection.Settings("marks", max_people=1)))
    assert lines == ["0\n", "1 40.0 10.0 60.0 29.0 0.5000\n", "2\n"]


@pytest.fixture
def videos(write_gray, moving_patch):
    """Ids and files of two videos of a few frames."""
    return {
        "a/one": str(write_gray("one", moving_patch[:6])),
        "two": str(write_gray("two", moving_patch[:4])),
    }


HOG = detection.Settings("hog")


def run(videos, directory, settings=HOG, on_error="error"):
    return detection.detect_collection(
        videos, directory, settings, num_workers=1, on_error=on_error
    )


def test_every_video_has_a_file_with_a_line_for_each_frame(videos, tmp_path):
    counts = run(videos, tmp_path / "out")
    assert list(counts) == ["a/one", "two"]
    assert len(people.read(tmp_path / "out" / "a" / "one.bb")) == 6
    assert len(people.read(tmp_path / "out" / "two.bb")) == 4


def test_boxes_that_are_there_stay_until_the_video_changes(videos, tmp_path):
    run(videos, tmp_path)
    (tmp_path / "two.bb").write_text("0 1 2 3 4 0.5\n")
    assert run(videos, tmp_path)["two"] == 1
    later = (tmp_path / "two.bb").stat().st_mtime_ns + 1
    os.utime(videos["two"], ns=(later, later))
    run(videos, tmp_path)
    assert len(people.read(tmp_path / "two.bb")) == 4


def test_a_folder_holds_boxes_of_one_detector(videos, tmp_path):
    run(videos, tmp_path)
    assert json.loads((tmp_path / "detector.json").read_text())["detector"] == "hog"
    with pytest.raises(ValueError, match=r"detector\.json: the folder holds boxes of other"):
        run(videos, tmp_path, detection.Settings("hog", min_score=1.0))


def test_failures_are_named_and_leave_no_file(videos, tmp_path):
    bad = tmp_path / "bad.avi"
    bad.write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"(?s)detect: 1 videos failed.*bad"):
        run({"bad": str(bad), **videos}, tmp_path)
    assert run({"bad": str(bad), **videos}, tmp_path, on_error="skip")["bad"] == 0
    assert not (tmp_path / "bad.bb").exists() and (tmp_path / "two.bb").exists()
