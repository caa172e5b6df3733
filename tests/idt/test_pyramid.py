import numpy as np
import pytest

from vcjax.idt import pyramid
from vcjax.idt.trajectories import IdtSettings


def test_six_scales_of_320_by_240_and_seven_of_340_by_256():
    sizes = pyramid.sizes(240, 320, IdtSettings())
    assert sizes == ((240, 320), (170, 226), (120, 160), (85, 113), (60, 80), (42, 57))
    assert len(pyramid.sizes(256, 340, IdtSettings())) == 7


def test_at_most_eight_scales():
    assert len(pyramid.sizes(2160, 3840, IdtSettings())) == 8


def test_scales_grow_by_the_square_root_of_two():
    np.testing.assert_allclose(pyramid.scales(IdtSettings()), 2 ** (np.arange(8) / 2), rtol=1e-6)


def test_a_frame_smaller_than_a_patch_is_an_error():
    with pytest.raises(ValueError, match="100 x 31 pixels.*32 x 32"):
        pyramid.sizes(31, 100, IdtSettings())


def test_finest_smoothed_level_is_blurred_by_one_two_one(texture):
    image = texture(0, (40, 50))
    finest = pyramid.smoothed(image, ((40, 50),), IdtSettings())[0]
    rows = image.astype(float)
    rows = (rows[:-2] + 2 * rows[1:-1] + rows[2:]) / 4
    expected = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4
    np.testing.assert_allclose(finest[1:-1, 1:-1], expected, rtol=1e-6)
