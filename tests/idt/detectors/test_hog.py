from itertools import islice

import numpy as np

from vcjax.data import video
from vcjax.idt import detectors


def test_nobody_is_found_on_an_even_wall():
    detections = detectors.create("hog")(np.full((120, 160, 3), 90, np.uint8))
    assert detections.shape == (0, 5)


def test_the_boxer_is_found_on_most_frames_and_where_he_stands(shared):
    frames = islice(video.frames(shared / "idt" / "boxing.avi"), 0, 60, 10)
    detector = detectors.create("hog")
    detections = [detector(frame) for frame in frames]
    assert sum(len(people) > 0 for people in detections) >= 4  # of 6
    left, top, right, bottom, _ = np.concatenate(detections).T
    assert ((left > 50) & (right < 105) & (top > 5) & (bottom < 115)).mean() >= 0.7
