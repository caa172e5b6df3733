"""AVI files: frames that were dropped, counts and indexes that are wrong or missing."""

import struct

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from vcjax.data import video

NUM_FRAMES = 40
GOP = {"g": "12"}
B_FRAMES = {"g": "12", "bf": "2"}


@pytest.mark.parametrize("codec, bf", [("mpeg4", 0), ("libx264", 0), ("ffv1", 0), ("libx264", 2)])
@pytest.mark.parametrize("pts", [lambda t: t + t // 3, lambda t: t + 10 * (t > 20)])
def test_dropped_frames_of_an_avi_file_are_not_missing(
    tmp_path, write_video, codec, bf, pts, assert_whole
):
    options = {"g": "12", "bf": str(bf)} if codec != "ffv1" else {}
    path = write_video(tmp_path / "dropped.avi", NUM_FRAMES, codec=codec, pts=pts, **options)
    assert_whole(path, NUM_FRAMES)


def test_b_frames_copied_into_an_avi_file(tmp_path, write_video, assert_whole):
    source = write_video(tmp_path / "b.mp4", NUM_FRAMES, g="12", bf="3")
    path = tmp_path / "copied.avi"
    with av.open(source) as packets, av.open(path, "w") as container:
        template = packets.streams.video[0]
        stream = container.add_stream_from_template(template)
        start_codes = BitStreamFilterContext("h264_mp4toannexb", template)
        for packet in packets.demux(video=0):
            for part in start_codes.filter(packet if packet.dts is not None else None):
                part.stream = stream
                container.mux(part)
    np.testing.assert_array_equal(
        assert_whole(path, NUM_FRAMES), np.stack(list(video.frames(source)))
    )


def test_a_declared_count_that_is_too_high_is_no_damage(tmp_path, write_video):
    path = write_video(tmp_path / "video.avi", NUM_FRAMES, codec="mpeg4", g="12")
    contents = path.read_bytes()
    for tag, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):
        place = contents.index(tag) + offset
        assert struct.unpack_from("<I", contents, place)[0] == NUM_FRAMES
        contents = contents[:place] + struct.pack("<I", 2 * NUM_FRAMES) + contents[place + 4 :]
    path.write_bytes(contents)
    for decode in (True, False):
        assert video.probe(path, decode=decode).num_frames == NUM_FRAMES


def test_an_index_that_is_missing_does_not_shorten_an_avi_file(tmp_path, write_video):
    """Without an index, only the frames that were read to recognize the codec are in it."""
    options = {"g": "1", "qp": "0", "preset": "ultrafast"}
    path = write_video(tmp_path / "video.avi", 30, size=(480, 640), **options)
    contents = path.read_bytes()
    size = contents.rindex(b"idx1")
    path.write_bytes(contents[:4] + struct.pack("<I", size - 8) + contents[8:size])
    with av.open(path) as container:
        assert 2 < len(container.streams.video[0].index_entries) < 30
    assert video.probe(path, decode=False).num_frames == 30


class Pipe:
    """A file that cannot be sought, so that FFmpeg declares no length in its header."""

    def __init__(self, path):
        self._path = path

    def write(self, data):
        with self._path.open("ab") as file:
            return file.write(data)


PIPED = {  # codec: options
    "mpeg4": GOP,
    "mpeg4 and B-frames": B_FRAMES,
    "libx264": GOP | {"bf": "0"},
    "libx264 and B-frames": B_FRAMES,
    "ffv1": {},
}


@pytest.mark.parametrize("name", PIPED)
def test_an_avi_file_written_to_a_pipe_has_no_declared_length(
    tmp_path, write_video, name, assert_refused, assert_whole
):
    options = PIPED[name] | {"codec": name.split()[0]}
    source = write_video(tmp_path / "source.avi", NUM_FRAMES, **options)
    path = tmp_path / "piped.avi"
    write_video(path, NUM_FRAMES, file=Pipe(path), container="avi", **options)
    contents = path.read_bytes()
    declared = contents.index(b"strh") + 8 + 32
    assert struct.unpack_from("<I", contents, declared) == (1 << 30,)
    whole, expected = assert_whole(path, NUM_FRAMES), np.stack(list(video.frames(source)))
    assert np.abs(whole.astype(int) - expected).mean() < 3  # no two encodings are equal
    for share in (0.4, 0.6, 0.8):
        last = contents.index(b"00dc", int(share * len(contents)))
        path.write_bytes(contents[: last + 20])  # within a frame
        assert_refused(path, "truncated|damaged")


def test_an_avi_file_that_was_never_finished_is_refused(tmp_path, write_video, assert_refused):
    """Its header promises an index at its end."""
    path = write_video(tmp_path / "video.avi", NUM_FRAMES, codec="mpeg4")
    contents = path.read_bytes()[: path.read_bytes().index(b"idx1")]
    path.write_bytes(contents[:4] + b"\xff\xff\xff\xff" + contents[8:])
    assert_refused(path, "truncated")


def test_the_documentation_lists_every_kind_by_verdict(assert_documented):
    read = "read to its end"
    codecs = ("mpeg4", "h264", "ffv1", "h264 and B-frames")
    names = [name.replace("libx264", "h264") for name in PIPED]
    assert_documented(
        [
            *(
                (f"avi of {codec} with dropped frames", "read without these frames")
                for codec in codecs
            ),
            ("avi into which B-frames were copied", read),
            ("avi that declares too many frames", read),
            *((f"avi of {name}, written to a pipe", read) for name in names),
            ("avi that was never finished", "refused"),
            ("avi without an index", read),
        ]
    )
