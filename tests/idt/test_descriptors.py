import numpy as np
import pytest

from vcjax.idt import descriptors

FLOOR, STILL = np.float32(0.05), np.float32(0.4)


@pytest.fixture
def scene(texture):
    flow = np.random.default_rng(5).normal(0, 1, (2, 50, 60)).astype(np.float32)
    return texture(0, (50, 60)), flow


def describe(gray, flow, x, y):
    # a point further down first: patches are processed from top to bottom
    points, rows = np.array([[x, y + 1], [x, y]], np.float32), np.array([0, 2])
    out, buffer = np.zeros((3, 4, 33), np.float32), descriptors.scratch(gray.shape[1])
    descriptors.add_patches(gray, flow, points, STILL, FLOOR, buffer, rows, out)
    assert out[0].any() and not out[1].any()
    return [part.ravel() for part in np.split(out[2], [8, 17, 25], axis=1)]


def histogram(dx, dy, num_bins, still=None):
    """Of one patch [32, 32], pixel by pixel: x cell, y cell, bin."""
    out = np.zeros((2, 2, num_bins))
    for y in range(32):
        for x in range(32):
            cell = out[x // 16, y // 16]
            length = np.hypot(dx[y, x], dy[y, x])
            if still is not None and length <= still:
                cell[8] += 1
                continue
            position = np.degrees(np.arctan2(dy[y, x], dx[y, x])) % 360 / 45
            cell[int(position) % 8] += length * (1 - position % 1)
            cell[(int(position) + 1) % 8] += length * (position % 1)
    out += 0.05
    return np.sqrt(out / out.sum()).ravel()


def differences(image):
    dx, dy = np.zeros(image.shape), np.zeros(image.shape)
    dx[:, 1:-1] = image[:, 2:].astype(float) - image[:, :-2]
    dy[1:-1] = image[2:].astype(float) - image[:-2]
    return dx, dy


@pytest.mark.parametrize(
    ("x", "y", "left", "top"), [(30, 25, 14, 9), (2, 3, 0, 0), (58, 49, 28, 18)]
)
def test_descriptors_are_those_of_a_plain_loop(scene, x, y, left, top):
    gray, flow = scene
    patch = (slice(top, top + 32), slice(left, left + 32))
    hog, hof, mbhx, mbhy = describe(gray, flow, x, y)
    for actual, (dx, dy), bins, still in [
        (hog, differences(gray), 8, None),
        (hof, flow, 9, 0.4),
        (mbhx, differences(flow[0]), 8, None),
        (mbhy, differences(flow[1]), 8, None),
    ]:
        expected = histogram(dx[patch], dy[patch], bins, still)
        # the polynomial for the arc tangent is off by up to 0.01 degrees
        np.testing.assert_allclose(actual, expected, atol=1e-3)


def test_each_descriptor_of_a_frame_has_unit_norm(scene):
    for part in describe(*scene, 30, 25):
        np.testing.assert_allclose(np.linalg.norm(part), 1, rtol=1e-5)


def test_without_motion_hof_is_all_in_its_ninth_bin(scene):
    _, hof, mbhx, _ = describe(scene[0], np.zeros_like(scene[1]), 30, 25)
    cells = hof.reshape(4, 9)
    assert (cells[:, 8] > 0.49).all() and (cells[:, :8] < 0.01).all()
    np.testing.assert_allclose(mbhx, np.sqrt(1 / 32), rtol=1e-5)  # the floor alone: all bins alike


def test_motion_to_the_right_is_in_the_first_bin_and_downwards_in_the_third(scene):
    for direction, expected in ((0, 0), (1, 2)):
        flow = np.zeros_like(scene[1])
        flow[direction] = 2
        hof = describe(scene[0], flow, 30, 25)[1].reshape(4, 9)
        assert (hof.argmax(axis=1) == expected).all()
