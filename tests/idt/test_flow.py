import numpy as np
import pytest

from vcjax.idt import flow, pyramid
from vcjax.idt.trajectories import IdtSettings

SETTINGS = IdtSettings()


def flows(first, second):
    sizes = pyramid.sizes(*first.shape, SETTINGS)
    pair = [flow.expand(pyramid.smoothed(image, sizes, SETTINGS)) for image in (first, second)]
    return flow.pyramid_flow(*pair, SETTINGS.stride)


def test_expansion_of_a_quadratic_is_its_coefficients():
    y, x = np.mgrid[-20:21, -25:26].astype(np.float32)
    image = 3 + 2 * y - 0.5 * x + 0.25 * y**2 - 0.125 * x**2 + 0.5 * x * y
    coefficients = flow.expand([image])[0][:, 20, 25]
    np.testing.assert_allclose(coefficients, [2, -0.5, 0.25, -0.125, 0.5], atol=1e-4)


def test_flow_of_a_shifted_texture_is_the_shift(texture):
    scene = texture(0, (160, 200))
    first, second = scene[20:140, 20:180], scene[22:142, 17:177]  # the scene moves by (3, -2)
    finest = flows(np.ascontiguousarray(first), np.ascontiguousarray(second))[0]
    inner = finest[:, 15:-15, 15:-15]
    np.testing.assert_allclose(inner[0], 3, atol=0.1)
    np.testing.assert_allclose(inner[1], -2, atol=0.1)


def test_coarser_flow_is_in_pixels_of_its_level(texture):
    scene = texture(3, (160, 200))
    first, second = scene[20:140, 20:180], scene[20:140, 16:176]
    levels = flows(np.ascontiguousarray(first), np.ascontiguousarray(second))
    medians = [float(np.median(level[0])) for level in levels[:3]]
    np.testing.assert_allclose(medians, [4, 4 / 2**0.5, 2], rtol=0.03)


def test_still_frames_do_not_flow(texture):
    image = texture(0, (160, 200))
    for level in flows(image, image):
        height, width = level.shape[1:]
        # the right and lower border count as leaving the picture, as published
        np.testing.assert_allclose(level[:, : height // 3, : width // 3], 0, atol=1e-5)


@pytest.mark.parametrize(
    ("target", "name", "tolerance"), [("frame1", "flow", 1e-3), ("warped1", "warped_flow", 2e-3)]
)
def test_every_level_is_as_published(shared, target, name, tolerance):
    with np.load(shared / "idt" / "bowling.flow.npz") as reference:
        levels = flows(reference["frame0"], reference[target])
        for level, actual in enumerate(levels):
            expected = reference[f"{name}_level{level}"].transpose(2, 0, 1)
            np.testing.assert_allclose(actual, expected, atol=tolerance, rtol=0)
            assert np.median(np.abs(actual - expected)) < 1e-6
