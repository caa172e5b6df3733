import numpy as np
import pytest

from vcjax.data import clips, synthetic, verify, video, windows
from vcjax.data import manifest as manifests
from vcjax.data.windows import Cut


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    source = synthetic.render(tmp_path_factory.mktemp("v"), num_videos=2, seed=0, num_workers=1)
    read = manifests.read(source)
    return verify.verify(read, on_error="error", decode=True, num_workers=1)[0]


def test_clips_lie_side_by_side_in_a_window():
    cut = Cut(4.0, 4.0, num_frames=8, stride=2, side=16)
    assert windows.clip_starts(100, 116, 1000, cut) == [100]  # one clip of 15 frames fits
    assert windows.clip_starts(100, 148, 1000, cut) == [106, 116, 128]  # three clips
    assert windows.clip_starts(0, 5, 1000, cut) == [0]  # its center would be before the video
    assert windows.clip_starts(990, 1000, 1000, cut) == [985]


def test_windows_start_at_multiples_of_the_step(videos):
    rate = video.probe(videos.paths[0], decode=False).fps
    duration = videos.num_frames[0] / rate
    cut = Cut(0.5, 0.25, num_frames=4, stride=1, side=16)
    listed = windows.listed(videos.take([0]), cut)
    assert listed.start.tolist() == [0.25 * i for i in range(len(listed.row))]
    assert listed.end[-1] <= duration + 0.5 / rate < listed.end[-1] + 0.25
    long = windows.listed(videos, cut._replace(window=1e3))
    assert long.row.tolist() == [0, 1] and long.start.tolist() == [0, 0]
    assert long.end[0] == pytest.approx(duration)


@pytest.mark.parametrize("window, stride", [(0.4, 1), (1.0, 2), (0.1, 3)])
def test_clips_of_one_pass_are_the_clips_of_the_reader(videos, window, stride):
    cut = Cut(window, 0.3, num_frames=4, stride=stride, side=16)
    listed = windows.listed(videos, cut)
    count = 0
    for number, clip in windows.read(videos, listed, cut):
        row = listed.row[number]
        rate = video.probe(videos.paths[row], decode=False).fps
        begin, end = listed.start[number] * rate, listed.end[number] * rate
        starts = windows.clip_starts(begin, end, videos.num_frames[row], cut)
        expected = [
            clips.center_crop(video.clip(videos.paths[row], first, 4, stride=stride), 16)
            for first in starts
        ]
        assert any(np.array_equal(clip, other) for other in expected)
        count += 1
    assert count >= len(listed.row)


def test_a_video_shorter_than_a_clip_is_repeated(videos):
    cut = Cut(60.0, 60.0, num_frames=videos.num_frames[0] + 5, stride=1, side=16)
    ((_, clip),) = windows.read(videos.take([0]), windows.listed(videos.take([0]), cut), cut)
    np.testing.assert_array_equal(clip[-5:], clip[:5])
