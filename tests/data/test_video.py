import itertools
import os
import re
import shutil
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np
import pytest

from vcjax.data import manifest, readers, verify, video


def decoded(path):
    return np.stack(list(video.frames(path)))


def looped(whole, start, num_frames, stride=1):
    return whole[(start + stride * np.arange(num_frames)) % len(whole)]


@pytest.mark.parametrize(
    "name, options",
    [
        ("close_keys.mp4", {"g": "8", "bf": "0"}),
        ("one_key.mp4", {"g": "500", "bf": "0"}),
        ("b_frames.mp4", {"g": "12", "bf": "3"}),
        ("b_frames.mkv", {"g": "12", "bf": "3"}),
        ("mpeg4.avi", {"codec": "mpeg4", "g": "12"}),
        ("b_frames.avi", {"codec": "mpeg4", "g": "12", "bf": "2"}),
        ("late_start.mp4", {"g": "12", "bf": "0", "pts": lambda t: t + 10}),
        ("late_start.mkv", {"g": "12", "bf": "2", "pts": lambda t: t + 10}),
        ("uneven.mp4", {"g": "12", "bf": "0", "pts": lambda t: t + t // 3}),
        ("jitter.mp4", {"g": "12", "bf": "0", "pts": lambda t: 2 * t - t % 2 + 2 * (t == 49)}),
        ("slower.mp4", {"g": "12", "bf": "0", "pts": lambda t: t if t < 25 else 3 * t - 48}),
    ],
)
def test_a_clip_is_part_of_the_whole(tmp_path, write_video, name, options):
    path = write_video(tmp_path / name, 50, **options)
    whole = decoded(path)
    assert len(whole) == 50 and video.probe(path, decode=True).num_frames == 50
    for start in (0, 1, 7, 8, 9, 11, 12, 13, 25, 36, 44):
        np.testing.assert_array_equal(video.clip(path, start, 6), whole[start : start + 6])


@pytest.mark.parametrize("start, num_frames", [(0, 16), (0, 5), (2, 4), (4, 16), (0, 1)])
@pytest.mark.parametrize("stride", [1, 2, 7])
def test_a_short_video_loops(tmp_path, write_video, start, num_frames, stride):
    path = write_video(tmp_path / "short.mp4", 5)
    expected = looped(decoded(path), start, num_frames, stride)
    np.testing.assert_array_equal(video.clip(path, start, num_frames, stride=stride), expected)


def test_clips_of_real_videos_are_parts_of_the_whole(shared):
    paths = sorted((shared / "videos" / "hmdb51").rglob("*.avi"))
    paths += sorted((shared / "videos" / "UCF-101").rglob("*.avi"))[:2]
    paths += [shared / "videos" / "assorted" / "arm_wrestling.mp4"]
    assert len(paths) >= 10
    for path in paths:
        whole = decoded(path)
        for start in (0, 1, len(whole) // 2, len(whole) - 16, len(whole) - 3):
            expected = looped(whole, start, 16)
            np.testing.assert_array_equal(video.clip(path, start, 16), expected, str(path))


def test_metadata_that_is_not_utf8_is_no_obstacle(shared):
    path = next((shared / "videos" / "hmdb51").rglob("Turnk_r*.avi"))
    declared = video.probe(path, decode=False)
    assert (declared.height, declared.width) == (240, 320)
    assert abs(video.probe(path, decode=True).num_frames - declared.num_frames) <= 2


@pytest.mark.parametrize("error", [TypeError, AttributeError, ImportError])
def test_a_changed_api_of_the_decoder_is_not_an_error_of_the_video(
    tmp_path, write_video, monkeypatch, error
):
    path = write_video(tmp_path / "video.mp4", 9)

    def changed(*arguments, **options):
        raise error("metadata_errors")

    monkeypatch.setattr(readers.av, "open", changed)
    reads = (
        lambda: video.probe(path, decode=False),
        lambda: list(video.frames(path)),
        lambda: video.clip(path, 0, 4),
        lambda: verify.probe_all([str(path)], decode=False, num_workers=1),
    )
    for read in reads:
        with pytest.raises(error, match="metadata_errors"):
            read()


def test_size_and_rate_are_those_written(tmp_path, write_video):
    path = write_video(tmp_path / "video.mp4", 9, size=(32, 80))
    for decode in (True, False):
        assert video.probe(path, decode=decode) == video.VideoInfo(9, 32, 80, 25.0)


def unreadable(folder: Path, write_video) -> dict[str, Path]:
    """A file of each kind that cannot be read, by what is said of it."""
    whole = write_video(folder / "whole.mkv", 60, size=(96, 96), g="8")
    cut = folder / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[:60])
    empty = folder / "empty.mp4"
    empty.touch()
    text = folder / "text.mp4"
    text.write_text("this is no video\n" * 100)
    return {
        "no such file": folder / "missing.mp4",
        "the file is empty": empty,
        "Invalid data": text,
        "": cut,
    }


def test_what_cannot_be_read_is_named_in_one_line(tmp_path, write_video):
    for reason, path in unreadable(tmp_path, write_video).items():
        for decode in (True, False):
            with pytest.raises(video.DecodeError, match=re.escape(f"{path}: {reason}")) as raised:
                video.probe(path, decode=decode)
            assert "\n" not in str(raised.value)
        with pytest.raises(video.DecodeError, match=re.escape(str(path))):
            video.clip(path, 0, 4)


def test_a_file_cut_short_is_told_from_a_whole_one(tmp_path, write_video):
    path = write_video(tmp_path / "video.avi", 60, codec="mpeg4", g="8")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(video.DecodeError, match=r"truncated, \d+ of 60 frames"):
        video.probe(path, decode=True)


@pytest.fixture
def without_root():
    """The rights of a user other than root, who may read every file."""
    users = os.getresuid()
    if users[1] == 0:
        os.setresuid(65534, 65534, 0)
    yield
    os.setresuid(*users)


def test_a_file_without_permission_is_named_with_a_remedy(write_video, without_root):
    folder = Path(tempfile.mkdtemp())  # of this user, unlike the folders above `tmp_path`
    path, table = write_video(folder / "video.mp4", 6), folder / "videos.tsv"
    table.write_text("path\nvideo.mp4\n")
    listed = manifest.read(table)
    path.chmod(0)
    table.chmod(0)
    remedy = "permission denied; allow it with chmod, or run the command as the owner"
    for read in (lambda: video.probe(path, decode=True), lambda: video.clip(path, 3, 2)):
        with pytest.raises(video.DecodeError, match=f"^{path}: {remedy}$"):
            read()
    with pytest.raises(manifest.ManifestError, match=f"1 of 1 videos .*\n *{path}: {remedy}\n"):
        verify.check_files(listed)
    with pytest.raises(manifest.ManifestError, match=f"^{table}: {remedy}$"):
        manifest.read(table)
    shutil.rmtree(folder)


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv420p10le", "yuv420p12le"])
def test_pixels_are_converted_as_by_ffmpeg(tmp_path, pixels):
    path = tmp_path / "video.mkv"
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    with av.open(path) as container:
        graph = av.filter.Graph()
        scale = graph.add("scale", "flags=bicubic")  # as the program inserts it
        chain = graph.add_buffer(template=container.streams.video[0]), scale
        graph.link_nodes(*chain, graph.add("format", "rgb24"), graph.add("buffersink")).configure()
        graph.push(next(container.decode(video=0)))
        expected = graph.pull().to_ndarray()
    np.testing.assert_array_equal(decoded(path), expected[None])


def test_sound_alone_is_no_video(tmp_path):
    import wave

    path = tmp_path / "sound.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(1600))
    with pytest.raises(video.DecodeError, match="there is no video stream in the file"):
        video.probe(path, decode=True)


def test_files_that_cannot_be_sought_are_reported_once(tmp_path, write_video, caplog):
    paths = [
        write_video(tmp_path / f"{i}.avi", 20, codec="mpeg4", g="12", bf="2") for i in range(3)
    ]
    paths.append(write_video(tmp_path / "whole.mp4", 20))
    assert verify.probe_all([str(p) for p in paths], decode=True, num_workers=1) == [20] * 4
    (line,) = caplog.messages
    assert "3 of 4 files cannot be sought" in line and "vcjax data prepare" in line


def test_a_clip_far_into_a_matroska_file_is_decoded_from_a_key_frame(
    tmp_path, write_video, monkeypatch
):
    path = write_video(tmp_path / "long.mkv", 400, size=(32, 32), g="10")
    expected = np.stack(list(video.frames(path)))[390:396]
    count = itertools.count()
    packet_decoder = video.readers._decode

    def counted(packets, stream):
        for frame in packet_decoder(packets, stream):
            next(count)
            yield frame

    monkeypatch.setattr(video.readers, "_decode", counted)
    np.testing.assert_array_equal(video.clip(path, 390, 6), expected)
    assert next(count) < 30
