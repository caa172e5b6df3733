import numpy as np
import pytest

from vcjax.idt import tracks
from vcjax.idt.trajectories import IdtSettings

SETTINGS = IdtSettings()


def track(step_x, step_y=None):
    """A track of 16 points from its 15 steps."""
    steps = np.stack([step_x, np.zeros(15) if step_y is None else step_y], axis=-1)
    return np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])[None].astype(np.float32)


def valid(points, steps=None):
    steps = np.diff(points, axis=1) if steps is None else steps
    return bool(tracks.is_valid(points, steps, SETTINGS)[0])


def test_a_steady_track_is_valid():
    assert valid(track(np.full(15, 2.0)))


def test_a_still_track_is_not():
    assert not valid(track(np.full(15, 0.3)))  # deviation 1.4


def test_a_track_without_steps_of_its_own_moves_with_the_camera():
    points = track(np.full(15, 2.0))
    assert not valid(points, np.full((1, 15, 2), 0.7, np.float32))  # 0.99 pixels
    assert valid(points, np.full((1, 15, 2), 0.8, np.float32))


def test_a_track_that_goes_too_far_is_erratic():
    assert valid(track(np.full(15, 10.0)))  # deviation 46
    assert not valid(track(np.full(15, 11.0)))  # 51


def test_a_jump_is_not_a_track():
    jump = np.full(15, 0.5)
    jump[7] = 21
    assert not valid(track(jump))
    jump[7] = 19  # as large a share, but not that long
    assert valid(track(jump))
    rest = np.full(15, 1.0)
    rest[7] = 21  # 0.6 of the length
    assert valid(track(rest))


def test_new_points_are_where_there_is_texture_and_no_track(texture):
    gray = np.zeros((40, 60), np.uint8)
    gray[:, 30:] = texture(0, (40, 30))
    first = tracks.sample(tracks.empty(), gray, SETTINGS)
    assert len(first.age) > 20
    assert (first.points[:, 0] % 5 == 2).all() and (first.points[:, 0, 0] >= 27).all()
    again = tracks.sample(first, gray, SETTINGS)
    assert len(again.age) == len(first.age)  # every cell is taken
    fewer = tracks.sample(first.where(np.arange(len(first.age)) != 3), gray, SETTINGS)
    np.testing.assert_array_equal(fewer.points[-1, 0], first.points[3, 0])


def test_a_track_follows_the_flow_and_ends_when_it_leaves_the_frame():
    live = tracks.Tracks(
        np.zeros(2, np.int32),
        np.pad(np.array([[[20, 22]], [[37, 22]]], np.float32), ((0, 0), (0, 15), (0, 0))),
        np.zeros((2, 15, 2), np.float32),
        np.arange(2),
        np.zeros((2, 3, 4, 33), np.float32),
    )
    flow = np.zeros((2, 40, 40), np.float32)
    flow[0] = 3.5
    live_next, finished = tracks.advance(live, flow, 0.5 * flow)
    assert len(finished.age) == 0
    np.testing.assert_array_equal(live_next.points[:, 1], [[23.5, 22]])
    np.testing.assert_array_equal(live_next.steps[:, 0], [[1.75, 0]])


def test_a_new_track_takes_the_slot_of_an_ended_one_and_the_others_keep_theirs(texture):
    gray = texture(0, (40, 60))
    first = tracks.sample(tracks.empty(), gray, SETTINGS)
    kept = first.where(np.arange(len(first.age)) % 3 != 0)
    later = tracks.sample(kept, gray, SETTINGS)
    assert later.sums is first.sums and set(later.slot) == set(first.slot)
    n = len(kept.age)
    np.testing.assert_array_equal(later.slot[:n], kept.slot)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_row_is_in_pixels_of_the_video(scale):
    points = track(np.full(15, 2.0)) + 10
    steps = np.diff(points, axis=1)
    sums = np.ones((1, 3, 4, 33), np.float32)
    finished = tracks.Tracks(np.array([15]), points, steps, np.array([0]), sums)
    row = tracks.finish(finished, frame=20, scale=scale, height=100, width=200, settings=SETTINGS)
    std = 2 * np.sqrt((16**2 - 1) / 12)
    expected = [20, 25 * scale, 10 * scale, std * scale, 0, 30 * scale, scale]
    expected += [0.125 * scale, 0.1 * scale, 12.5]
    np.testing.assert_allclose(row.header[0], expected, rtol=1e-5)
    np.testing.assert_allclose(row.trajectory[0].reshape(15, 2), np.tile([1 / 15, 0], (15, 1)))
    np.testing.assert_allclose(row.hog, 0.2)  # the mean of 5 frames
