from itertools import islice

import numpy as np

from vcjax.data import video
from vcjax.idt import detectors


def test_nobody_is_found_on_an_even_wall():
    found = detectors.create("hog")(np.full((120, 160, 3), 90, np.uint8))
    assert found.shape == (0, 5)


def test_the_boxer_is_found_on_most_frames_and_where_he_stands(shared):
    frames = islice(video.frames(shared / "idt" / "boxing.avi"), 0, 60, 10)
    detector = detectors.create("hog")
    found = [detector(frame) for frame in frames]
    assert sum(len(people) > 0 for people in found) >= 4  # of 6
    left, top, right, bottom, _ = np.concatenate(found).T
    assert ((left > 50) & (right < 105) & (top > 5) & (bottom < 115)).mean() >= 0.7
