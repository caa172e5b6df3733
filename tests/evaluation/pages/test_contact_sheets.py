from fractions import Fraction

import av
import numpy as np
import pytest

from vcjax.evaluation.pages import contact_sheets


@pytest.fixture
def path(tmp_path):
    """Ten frames, each brighter than the one before."""
    path = tmp_path / "video.mp4"
    with av.open(path, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 112, 84, "yuv420p"
        stream.options = {"threads": "1", "crf": "4"}
        for t in range(10):
            picture = np.full((84, 112, 3), 20 + 20 * t, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def _shades(tiles):
    return tiles.reshape(len(tiles), -1).mean(axis=1)


def test_tiles_are_evenly_over_the_video(path):
    np.testing.assert_allclose(
        _shades(contact_sheets.read(path, 10)), [40, 80, 120, 160, 200], atol=4
    )


def test_a_video_of_fewer_frames_than_tiles_shows_them_again(path):
    np.testing.assert_allclose(_shades(contact_sheets.read(path, 2)), [20, 20, 40, 40, 40], atol=4)


def test_what_cannot_be_decoded_is_grey(path, tmp_path):
    tiles = contact_sheets.read(path, 20)  # claims twice its frames
    np.testing.assert_allclose(_shades(tiles), [60, 140, 168, 168, 168], atol=4)
    assert (contact_sheets.read(tmp_path / "none.mp4", 10) == 168).all()


def test_a_sheet_has_a_row_a_video_and_a_column_a_frame(path):
    shades = np.arange(10).reshape(2, 5, 1, 1, 1) * 20
    videos = np.broadcast_to(shades, (2, 5, contact_sheets.HEIGHT, contact_sheets.WIDTH, 3)).astype(
        np.uint8
    )
    pixels = np.asarray(contact_sheets.contact_sheet(list(videos)))
    rows = np.arange(2) * (contact_sheets.HEIGHT + 2) + 40
    columns = np.arange(5) * (contact_sheets.WIDTH + 2) + 50
    np.testing.assert_array_equal(pixels[rows][:, columns, 0], shades[..., 0, 0, 0])
