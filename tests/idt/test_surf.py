import cv2
import numpy as np
import pytest

from vcjax.idt import surf
from vcjax.idt.surf import description, keypoints


def blob(sigma, shape=(120, 140), center=(70, 60)):
    """A bright Gaussian on grey; the center is (x, y)."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    squared = (x - center[0]) ** 2 + (y - center[1]) ** 2
    return np.rint(60 + 150 * np.exp(-squared / (2 * sigma**2))).astype(np.uint8)


def distances(a, b):
    return np.linalg.norm(a[:, None] - b[None], axis=2)


@pytest.mark.parametrize("sigma", [2.5, 3, 4, 5, 6, 8])
def test_a_blob_is_found_at_its_place_and_size(sigma):
    x, y, side = keypoints.detect(cv2.integral(blob(sigma)))[0]
    assert abs(x - 70) < 0.1 and abs(y - 60) < 0.1
    scale = side * 1.2 / 9  # the filter of side 9 corresponds to sigma 1.2
    assert scale == pytest.approx(0.76 * sigma, rel=0.07)  # boxes see blobs a quarter smaller


def test_determinants_are_of_the_boxes_of_the_paper(texture):
    image = texture(0, (40, 50)).astype(np.float64)
    determinants = keypoints._determinants(
        keypoints._phases(cv2.integral(image.astype(np.uint8)), 2), 18, 40, 50
    )
    filters = np.zeros((3, 18, 18))
    for weight, at in ((1, 0), (-2, 6), (1, 12)):
        filters[0, 4:14, at : at + 6] = filters[1, at : at + 6, 4:14] = weight / 60
    for weight, y, x in ((1, 2, 2), (-1, 2, 10), (-1, 10, 2), (1, 10, 10)):
        filters[2, y : y + 6, x : x + 6] = weight / 36
    xx, yy, xy = (filters * image[6:24, 10:28]).sum(axis=(1, 2))
    np.testing.assert_allclose(determinants[3 + 4, 5 + 4], xx * yy - 0.81 * xy**2, rtol=1e-5)


@pytest.mark.parametrize("side", [25, 42, 63, 64, 100])
def test_windows_shrink_as_by_the_area_interpolation_of_opencv(side):
    window = np.random.default_rng(side).integers(0, 256, (side, side)).astype(np.uint8)
    out = np.empty((21, 21), np.int32)
    description.shrink(window, out)
    np.testing.assert_array_equal(out, cv2.resize(window, (21, 21), interpolation=cv2.INTER_AREA))


def test_the_direction_is_that_of_the_gradient():
    ramp = np.tile(np.linspace(0, 255, 100), (100, 1)).astype(np.uint8)  # brighter to the right
    middle = np.array([[50, 50, 15]], np.float32)
    angles = [
        description.orientations(cv2.integral(np.ascontiguousarray(np.rot90(ramp, turns))), middle)
        for turns in range(4)
    ]
    # np.rot90 turns against the clock, and y points down
    assert [round(float(angle[0])) % 360 for angle in angles] == [0, 270, 180, 90]


def test_no_direction_where_the_filters_do_not_fit():
    corner = np.array([[0, 0, 60]], np.float32)
    small = cv2.integral(np.zeros((20, 20), np.uint8))
    assert description.orientations(small, corner)[0] == -1


def test_a_turned_picture_has_the_same_descriptors_at_turned_points(texture):
    image = texture(0, (121, 121))
    first = surf.features(image)
    second = surf.features(np.ascontiguousarray(np.rot90(image)))
    nearest = distances(first.descriptors, second.descriptors).argmin(axis=1)
    turned = np.stack([first.points[:, 1], 120 - first.points[:, 0]], axis=1)
    distance = np.abs(second.points[nearest] - turned).max(axis=1)
    assert len(first.points) > 30 and (distance < 1).mean() > 0.9


def test_light_and_contrast_do_not_change_descriptors(texture):
    image = texture(0, (100, 120))
    bright = surf.features(image)
    blobs = keypoints.detect(cv2.integral(image))
    angles = description.orientations(cv2.integral(image), blobs)
    dim = description.describe(image // 2 + 20, blobs, angles)
    assert np.median((bright.descriptors * dim).sum(axis=1)) > 0.99
    np.testing.assert_allclose(np.linalg.norm(dim, axis=1), 1, atol=1e-6)


def test_matches_are_moved_as_the_picture_is(texture):
    scene = texture(0, (140, 180))
    first, second = scene[10:130, 10:160].copy(), scene[14:134, 7:157].copy()
    previous, current = surf.match(surf.features(first), surf.features(second))
    assert len(previous) > 40
    assert (np.abs(current - previous - [3, -4]).max(axis=1) < 0.5).mean() > 0.8


def test_nothing_matches_beyond_the_window():
    first, second = (surf.features(blob(5, center=center)) for center in ((40, 60), (70, 60)))
    assert len(first.points) and len(second.points)
    assert len(surf.match(first, second)[0]) == 0


def test_features_lie_on_what_is_free(texture):
    image, free = texture(0, (100, 160)), np.ones((100, 160), np.uint8)
    free[:, :80] = 0
    everywhere, features = surf.features(image), surf.features(image, free)
    is_free = everywhere.points[:, 0] >= 79.5
    assert 0 < len(features.points) < len(everywhere.points)
    np.testing.assert_array_equal(features.points, everywhere.points[is_free])
    np.testing.assert_array_equal(features.descriptors, everywhere.descriptors[is_free])


def test_a_picture_without_blobs_has_no_features():
    features = surf.features(np.full((60, 80), 90, np.uint8))
    assert features.points.shape == (0, 2) and features.descriptors.shape == (0, 128)
    assert len(surf.match(features, features)[0]) == 0
