import cv2
import numpy as np
import pytest

from vcjax.idt import camera, people
from vcjax.idt.trajectories import IdtSettings

SETTINGS = IdtSettings()
MOTION = np.array([[1.01, 0.002, -3.0], [-0.001, 0.99, 2.0], [1e-5, 2e-5, 1.0]])


def moved(points, motion=MOTION):
    homogeneous = np.column_stack([points, np.ones(len(points))]) @ motion.T
    return (homogeneous[:, :2] / homogeneous[:, 2:]).astype(np.float32)


def test_homography_of_the_majority_is_found_among_outliers():
    generator = np.random.default_rng(0)
    previous = generator.uniform(0, 200, (120, 2)).astype(np.float32)
    current = moved(previous)
    current[:40] += generator.uniform(5, 20, (40, 2)).astype(np.float32)
    motion = camera.homography((previous, current), SETTINGS)
    np.testing.assert_allclose(moved(previous, motion), moved(previous), atol=0.01)


def test_no_motion_without_enough_matches():
    points = np.random.default_rng(0).uniform(0, 200, (50, 2)).astype(np.float32)
    np.testing.assert_array_equal(camera.homography((points, moved(points)), SETTINGS), np.eye(3))


def test_no_motion_when_few_matches_agree():
    previous, current = np.random.default_rng(0).uniform(0, 200, (2, 60, 2)).astype(np.float32)
    np.testing.assert_array_equal(camera.homography((previous, current), SETTINGS), np.eye(3))


def test_corners_move_with_the_flow_and_those_on_people_are_left_out(texture):
    image = texture(0, (80, 100))
    flow = np.stack([np.full(image.shape, 2, np.float32), np.full(image.shape, -1, np.float32)])
    box = np.array([[50, 0, 99, 79]], np.float32)
    none = people.NO_BOXES
    everywhere = camera.flow_matches(camera.Pair(image, image, flow, none, none), SETTINGS)
    outside = camera.flow_matches(camera.Pair(image, image, flow, none, box), SETTINGS)
    np.testing.assert_array_equal(
        everywhere[1] - everywhere[0], np.tile([2, -1], (len(everywhere[0]), 1))
    )
    np.testing.assert_array_equal(outside[0], everywhere[0][everywhere[0][:, 0] < 50])


def test_stabilizing_undoes_the_motion_and_keeps_the_margin(texture):
    scene = texture(0, (100, 120))
    previous, current = scene[10:90, 10:110].copy(), scene[10:90, 13:113].copy()
    motion = np.array([[1, 0, -3.0], [0, 1, 0], [0, 0, 1]])
    stable = camera.stabilize(previous, current, motion, SETTINGS)
    np.testing.assert_array_equal(stable, previous)
    black = camera.stabilize(previous * 0, current, motion, SETTINGS)
    assert not black[:, :9].any() and not black[:6].any() and not black[-6:].any()
    assert black[6:-6, 9].any()  # the first column whose source is over 5 pixels inside


def test_unknown_matcher_names_those_there_are():
    with pytest.raises(ValueError, match="matcher is 'sift'; use flow"):
        camera.matcher("sift", SETTINGS)


def test_warped_frame_is_as_published(shared):
    with np.load(shared / "idt" / "bowling.flow.npz") as reference:
        first, second, expected = (reference[k] for k in ("frame0", "frame1", "warped1"))
    with np.load(shared / "idt" / "bowling.homographies.npz") as homographies:
        motion = homographies["H"][0]
    stable = camera.stabilize(first, second, motion, SETTINGS)
    assert cv2.__version__.startswith("4.")
    np.testing.assert_array_equal(stable, expected)
