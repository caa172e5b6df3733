import numpy as np
import pytest

from vcjax import idt


def test_only_the_patch_moves_once_the_camera_is_stabilized(moving_patch):
    result = idt.extract(moving_patch)
    x = result.header[:, 1]
    assert len(x) > 50
    assert (np.abs(x - 80) < 40).mean() > 0.97  # the patch spans 60 to 100; the wall is the rest


def test_without_stabilization_the_wall_moves_too(moving_patch):
    result = idt.extract(moving_patch, homographies=np.tile(np.eye(3), (29, 1, 1)))
    assert (np.abs(result.header[:, 1] - 80) > 40).mean() > 0.3


def test_rows_are_in_order_of_their_end(moving_patch):
    result = idt.extract(moving_patch)
    end = result.header[:, 0]
    assert end[0] == 15 and end[-1] == 29 and (np.diff(end) >= 0).all()
    np.testing.assert_allclose(result.header[:, 9], (end - 7.5) / 30, rtol=1e-6)


def test_features_stand_side_by_side(moving_patch):
    result = idt.extract(moving_patch)
    assert result.features.shape == (result.num_rows, 426) and result.features.dtype == np.float32
    np.testing.assert_array_equal(result.features[:, 30:126], result.hog)
    np.testing.assert_array_equal(result.features[:, 330:], result.mbhy)
    steps = result.trajectory.reshape(-1, 15, 2)
    np.testing.assert_allclose(np.linalg.norm(steps, axis=2).sum(axis=1), 1, rtol=1e-5)


def test_twice_gives_the_same_bytes(moving_patch):
    first, second = idt.extract(moving_patch[:20]), idt.extract(iter(moving_patch[:20]))
    assert first.num_rows and all(
        a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True)
    )


def test_grey_in_three_channels_is_grey(moving_patch):
    gray = idt.extract(moving_patch[:18])
    color = idt.extract(np.repeat(moving_patch[:18, :, :, None], 3, axis=3))
    np.testing.assert_array_equal(gray.features, color.features)


def test_people_may_hide_the_wall_from_the_camera(moving_patch):
    everywhere = [np.array([[0, 0, 160, 128]], np.float32)] * 30
    result = idt.extract(moving_patch, people=everywhere)
    unstable = idt.extract(moving_patch, homographies=np.tile(np.eye(3), (29, 1, 1)))
    np.testing.assert_array_equal(result.features, unstable.features)


@pytest.mark.parametrize("num_frames", [0, 1, 15])
def test_a_short_video_has_no_rows(moving_patch, num_frames):
    result = idt.extract(moving_patch[:num_frames])
    assert result.features.shape == (0, 426)


def test_a_grey_video_has_no_rows():
    assert idt.extract(np.full((20, 48, 64, 3), 128, np.uint8)).features.shape == (0, 426)


def test_a_change_of_size_is_an_error(texture):
    with pytest.raises(
        ValueError, match="frame 1 has 70 x 48 pixels, the frames before it 64 x 48"
    ):
        idt.extract([texture(0, (48, 64)), texture(0, (48, 70))])


def test_too_few_homographies_or_boxes_are_errors(moving_patch):
    with pytest.raises(ValueError, match="3 homographies"):
        idt.extract(moving_patch, homographies=np.tile(np.eye(3), (3, 1, 1)))
    with pytest.raises(ValueError, match="people: boxes for 3 frames"):
        idt.extract(moving_patch, people=[np.zeros((0, 4), np.float32)] * 3)


def test_unknown_matcher_is_an_error(moving_patch):
    with pytest.raises(ValueError, match="matcher is 'surfing'; use flow or surf"):
        idt.extract(moving_patch, matcher="surfing")
