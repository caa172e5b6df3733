from itertools import islice

import numpy as np

from vcjax.data import video
from vcjax.idt import detectors


def test_nobody_is_found_on_an_even_wall():
    found = detectors.create("hog")(np.full((120, 160, 3), 90, np.uint8))
    assert found.shape == (0, 5)


def test_a_boxer_before_a_plain_background_is_one_person(shared):
    frames = list(islice(video.frames(shared / "idt" / "boxing.avi"), 0, 100, 20))
    detector = detectors.create("hog")
    found = [detector(frame) for frame in frames]
    assert sum(len(people) == 1 for people in found) >= 4
    height, width = frames[0].shape[:2]
    for left, top, right, bottom, _ in np.concatenate(found):
        assert 0.3 * height < bottom - top < height and 0.1 * width < right - left < 0.6 * width
