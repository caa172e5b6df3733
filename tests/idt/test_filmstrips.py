import os

import numpy as np
import pytest

from vcjax.data import synthetic, video
from vcjax.idt import filmstrips


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("v")
    synthetic.render(folder, num_videos=1, seed=0, num_workers=1)
    path = str(folder / "video00000.mp4")
    num_frames = video.probe(path, decode=True).num_frames
    return filmstrips.Job("a/b", path, num_frames, filmstrips.path_of(folder, "a/b"))


def test_a_strip_shows_colored_tracks(job):
    assert filmstrips.write(job) == 1
    tiles = filmstrips.read(job.target)
    assert tiles.shape == (8, 96, 128, 3) and job.target.parent == job.video.parent
    span = 11 + 7 * 3
    plain = video.clip(job.path, (job.num_frames - span) // 2 + 31, 1)[0]

    def saturated(picture):
        return np.mean(np.ptp(picture.astype(int), axis=-1) > 150)

    assert saturated(tiles[-1]) > saturated(plain) + 0.01


@pytest.mark.parametrize(("shape", "fitted"), [((90, 160), (72, 128)), ((160, 90), (96, 54))])
def test_frames_of_a_strip_have_no_bars(shape, fitted):
    tile = filmstrips.fit(np.full((*shape, 3), 7, np.uint8))
    assert tile.shape == (*fitted, 3) and (tile == 7).all()


def test_a_strip_is_drawn_again_only_if_the_video_is_newer(job):
    filmstrips.write(job)
    assert filmstrips.write(job) == 0
    later = job.target.stat().st_mtime_ns + 10**9
    os.utime(job.path, ns=(later, later))
    assert filmstrips.write(job) == 1


def test_directions_have_the_colors_of_the_wheel():
    assert filmstrips.direction_color(1, 0) == (255, 25, 25)  # right
    red, green, blue = filmstrips.direction_color(-1, 0)  # left
    assert red < green == blue
    red, green, blue = filmstrips.direction_color(0, -1)  # up
    assert green > red > blue
