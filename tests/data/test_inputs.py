"""Videos of many kinds by verdict: the number of frames that players show, or the reason.

Every frame of the test videos differs, and every clip has to be a part of the whole video.
"""

import functools
import itertools
import os
import socket
from fractions import Fraction

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from vcjax.data import manifest, verify, video

NUM_FRAMES = 40
GOP = {"g": "12"}
B_FRAMES = {"g": "12", "bf": "2"}
CONTAINERS = {  # name: options of the encoder
    "h264.mp4": B_FRAMES,
    "h264.mov": B_FRAMES,
    "h264.mkv": B_FRAMES,
    "h264.ts": B_FRAMES,
    "h264.m2ts": B_FRAMES,
    "h264.flv": B_FRAMES,
    "h264.avi": GOP | {"bf": "0"},
    "no_b_frames.mkv": GOP | {"bf": "0"},
    "no_b_frames.ts": GOP | {"bf": "0"},
    "hevc.mp4": {"codec": "libx265", "g": "12"},
    "hevc.mkv": {"codec": "libx265", "g": "12"},
    "av1.mp4": {"codec": "libsvtav1", "g": "12"},
    "av1.webm": {"codec": "libsvtav1", "g": "12"},
    "vp8.webm": {"codec": "libvpx", "auto-alt-ref": "1", "lag-in-frames": "16", "g": "12"},
    "vp9.webm": {"codec": "libvpx-vp9", "lag-in-frames": "16", "g": "12"},
    "vp9.mkv": {"codec": "libvpx-vp9", "g": "12"},
    "mpeg4.avi": {"codec": "mpeg4", "g": "12"},
    "mpeg4.mp4": {"codec": "mpeg4", "g": "12", "bf": "2"},
    "mpeg4.mkv": {"codec": "mpeg4", "g": "12"},
    "mpeg4.3gp": {"codec": "mpeg4", "g": "12"},
    "mpeg2.ts": {"codec": "mpeg2video", "g": "12", "bf": "2"},
    "mpeg2.mpg": {"codec": "mpeg2video", "g": "12"},
    "mpeg1.mpg": {"codec": "mpeg1video", "g": "12"},
    "msmpeg4.asf": {"codec": "msmpeg4", "g": "12"},
    "wmv2.wmv": {"codec": "wmv2", "g": "12"},
    "flv1.flv": {"codec": "flv", "g": "12"},
    "ffv1.avi": {"codec": "ffv1"},
    "ffv1.mkv": {"codec": "ffv1"},
    "all_keys.mp4": {"g": "1"},
    "one_key.mkv": {"g": "1000", "bf": "0"},
}


def written(folder, write_video, name, num_frames=NUM_FRAMES):
    return write_video(folder / name, num_frames, **CONTAINERS[name])


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_whole_file_is_read_to_its_end(tmp_path, write_video, name, assert_whole):
    assert_whole(written(tmp_path, write_video, name), NUM_FRAMES)


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("share", [0.5, 0.75])
def test_a_part_of_a_file_is_refused(tmp_path, write_video, name, share, assert_refused):
    path = written(tmp_path, write_video, name)
    contents = path.read_bytes()
    path.write_bytes(contents[: int(share * len(contents)) // 2 * 2 + 1])
    assert_refused(path, "truncated|damaged|Invalid data|no frame")


def test_half_a_live_stream_is_refused(
    tmp_path, write_video, assert_refused, assert_whole, remuxed
):
    source = written(tmp_path, write_video, "vp9.webm")
    path = remuxed(source, tmp_path / "live.webm", options={"live": "1"})
    np.testing.assert_array_equal(
        assert_whole(path, NUM_FRAMES), np.stack(list(video.frames(source)))
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert_refused(path, "truncated")


@pytest.mark.parametrize("hidden", [1, 7, 13, 25])
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("b_frames", [0, 3])
def test_frames_before_an_edit_are_not_shown(
    tmp_path, write_video, hidden, suffix, b_frames, assert_whole, delayed, remuxed
):
    source = write_video(tmp_path / "long_gop.mp4", NUM_FRAMES, g="250", bf=str(b_frames))

    path = remuxed(
        source, tmp_path / f"trimmed{suffix}", functools.partial(delayed, frames=-hidden)
    )
    shown = assert_whole(path, NUM_FRAMES - hidden)
    np.testing.assert_array_equal(shown, np.stack(list(video.frames(source)))[hidden:])


MATRICES = {  # a b c d: (x, y) is shown at (a x + c y, b x + d y)
    "1 0 0 1": lambda p: p,
    "-1 0 0 1": lambda p: p[:, :, ::-1],
    "1 0 0 -1": lambda p: p[:, ::-1],
    "-1 0 0 -1": lambda p: p[:, ::-1, ::-1],
    "0 1 1 0": lambda p: p.swapaxes(1, 2),
    "0 1 -1 0": lambda p: np.rot90(p, 3, (1, 2)),
    "0 -1 1 0": lambda p: np.rot90(p, 1, (1, 2)),
    "0 -1 -1 0": lambda p: p[:, ::-1, ::-1].swapaxes(1, 2),
}


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_all_eight_orientations(tmp_path, write_video, set_matrix, matrix, suffix, assert_whole):
    path = write_video(tmp_path / f"video{suffix}", 8)
    stored = np.stack(list(video.frames(path)))
    set_matrix(path, matrix)
    np.testing.assert_array_equal(assert_whole(path, 8), MATRICES[matrix](stored))


def with_two_streams(path, default):
    """Write streams of 32 x 32 and 64 x 48 pixels; `default` lists the default streams."""
    with av.open(path, "w") as container:
        streams = []
        for index, (width, height) in enumerate(((32, 32), (64, 48))):
            stream = container.add_stream("libx264", rate=Fraction(25))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.disposition = av.stream.Disposition.default if index in default else 0
            streams.append(stream)
        for _, stream in itertools.product(range(10), streams):
            picture = np.full((stream.height, stream.width, 3), 90, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov"])
@pytest.mark.parametrize("default, size", [([0], (32, 32)), ([1], (48, 64)), ([], (32, 32))])
def test_the_default_of_two_streams_is_read(tmp_path, suffix, default, size):
    path = with_two_streams(tmp_path / f"two{suffix}", default)
    assert np.stack(list(video.frames(path))).shape == (10, *size, 3)
    assert video.probe(path, decode=True)[:3] == (10, *size)
    assert video.clip(path, 4, 3).shape == (3, *size, 3)


@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_a_change_of_resolution_is_refused_by_name(
    tmp_path, write_video, suffix, assert_refused, remuxed
):
    parts = [
        write_video(tmp_path / "a.ts", 20, size=(48, 64)),
        write_video(tmp_path / "b.ts", 20, size=(96, 64)),
    ]
    path = tmp_path / "changes.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    if suffix != ".ts":
        clock = itertools.count()

        def in_order(packet):
            packet.pts = packet.dts = next(clock) * 3600
            return packet

        path = remuxed(path, path.with_suffix(suffix), in_order)
    assert_refused(path, "frame 20 has 64 x 96 pixels, the frames before it 64 x 48")
    with pytest.raises(video.DecodeError, match="changes"):
        video.clip(path, 16, 8)


MORE = {  # codecs and containers of which a part may also be whole
    "h264.h264": B_FRAMES,
    "hevc.hevc": {"codec": "libx265", "g": "12"},
    "mpeg2.m2v": {"codec": "mpeg2video", "g": "12", "bf": "2"},
    "mpeg2.mxf": {"codec": "mpeg2video", "g": "12"},
    "vp9.ivf": {"codec": "libvpx-vp9", "g": "12"},
    "h264.nut": B_FRAMES,
    "dv.dv": {"codec": "dvvideo", "size": (576, 720)},
    "dv.avi": {"codec": "dvvideo", "size": (576, 720)},
    "8 x 8 pixels, h264.mp4": {"size": (8, 8)},
    "2 x 2 pixels, vp9.webm": {"codec": "libvpx-vp9", "size": (2, 2)},
    "35 x 17 pixels, vp9.webm": {"codec": "libvpx-vp9", "size": (17, 35)},
    "1 x 1 pixels, ffv1.mkv": {"codec": "ffv1", "size": (1, 1)},
    "16 x 2000 pixels, h264.mp4": {"size": (2000, 16)},
    "gaps of seconds, h264.mp4": {"pts": lambda t: t + 175 * (t > 10) + 275 * (t > 20)},
    "gaps of seconds, h264.mkv": {"pts": lambda t: t + 175 * (t > 10) + 275 * (t > 20)},
    "one picture in 2 seconds, h264.mp4": {"pts": lambda t: 50 * t},
    "interlaced h264.mp4": B_FRAMES | {"x264-params": "tff=1"},
    "interlaced mpeg2.ts": {"codec": "mpeg2video", "g": "12", "flags": "+ildct+ilme"},
    "av1 with film grain, av1.mp4": {"codec": "libsvtav1", "svtav1-params": "film-grain=20"},
    "open groups and B-pyramid, h264.mkv": {"x264-params": "open-gop=1:keyint=12:b-pyramid=2"},
    "h264.mp4 with intra refresh": {"x264-params": "intra-refresh=1:keyint=25:bframes=0"},
}


@pytest.mark.parametrize("name", MORE)
def test_more_kinds_are_read_to_their_end(tmp_path, write_video, name, assert_whole):
    suffix = name.rpartition(".")[2].split()[0]
    path = write_video(tmp_path / f"video.{suffix}", NUM_FRAMES, **MORE[name])
    height, width = MORE[name].get("size", (48, 64))
    assert assert_whole(path, NUM_FRAMES).shape[1:] == (height, width, 3)
    if "pts" not in MORE[name]:
        assert video.probe(path, decode=True).fps == 25


OPEN = {  # encoders of open groups of pictures; H.264 frames at the start are left out by decoders
    "hevc": {"codec": "libx265", "x265-params": "open-gop=1:keyint=12:bframes=4:scenecut=0"},
    "mpeg2video": {"codec": "mpeg2video", "g": "12", "bf": "2"},
    "h264": {"g": "12", "bf": "0"},
}


@pytest.mark.parametrize("codec", OPEN)
@pytest.mark.parametrize("suffix", [".ts", ".mkv", ".mp4"])
def test_frames_without_their_key_frame_do_not_shift_clips(
    tmp_path, write_video, codec, suffix, remuxed
):
    """As in a recording of a broadcast, the first frames refer to missing frames."""
    source = write_video(tmp_path / "source.mp4", NUM_FRAMES, **OPEN[codec])
    keys = itertools.count()
    kept = []

    def later(packet):
        if codec == "h264":  # the first key frame is missing
            later = bool(kept) or not packet.is_keyframe
        else:  # the second group of pictures is the first, with the B-frames before it
            later = bool(kept) or (packet.is_keyframe and next(keys) > 0)
        kept.extend([packet.pts] if later else [])
        return packet if later else None

    path = remuxed(source, tmp_path / f"recorded{suffix}", later)
    shown = np.stack(list(video.frames(path)))
    with av.open(source) as container:
        order = sorted(p.pts for p in container.demux(video=0) if p.pts is not None)
        container.seek(0)
        second = [p.pts for p in container.demux(video=0) if p.is_keyframe][1]
    expected = np.stack(list(video.frames(source)))[order.index(second) :]
    np.testing.assert_array_equal(shown, expected)
    for start in (0, 1, 5, 12, len(shown) - 4):
        clip = video.clip(path, start, 6)
        np.testing.assert_array_equal(clip, shown[(start + np.arange(6)) % len(shown)], str(start))


@pytest.mark.parametrize("suffix", [".avi", ".mov"])
def test_a_palette_is_kept_by_a_clip(tmp_path, suffix, assert_whole):
    path = tmp_path / f"video{suffix}"
    palette = np.random.default_rng(0).integers(0, 256, (256, 4)).astype(np.uint8)
    palette[:, 3] = 255
    pictures = np.random.default_rng(1).integers(0, 256, (20, 48, 64)).astype(np.uint8)
    with av.open(path, "w") as container:
        stream = container.add_stream("rawvideo", rate=Fraction(25))
        stream.height, stream.width, stream.pix_fmt = 48, 64, "pal8"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray((picture, palette), "pal8")))
        container.mux(stream.encode())
    whole = assert_whole(path, 20)
    colors = {tuple(color) for color in whole[0].reshape(-1, 3).tolist()}
    assert len(colors) > 200


def filtered(source, path, name):
    """Copy the H.264 stream of a ts file through a filter of FFmpeg."""
    with av.open(source) as packets, av.open(path, "w") as container:
        template = packets.streams.video[0]
        stream = container.add_stream_from_template(template)
        chain = BitStreamFilterContext(name, template)
        for packet in packets.demux(video=0):
            for part in chain.filter(packet if packet.dts is not None else None):
                part.stream = stream
                container.mux(part)
    return path


@pytest.mark.parametrize("left", [2, 8, 16])
def test_the_margins_of_a_picture_are_cropped(tmp_path, write_video, left, assert_whole):
    source = write_video(tmp_path / "source.ts", NUM_FRAMES, **B_FRAMES)
    options = f"crop_left={left}:crop_top=4:crop_right=2:crop_bottom=6"
    path = filtered(source, tmp_path / "cropped.ts", f"h264_metadata={options}")
    shown = assert_whole(path, NUM_FRAMES)
    expected = np.stack(list(video.frames(source)))[:, 4:-6, left:-2]
    np.testing.assert_array_equal(shown, expected)
    assert video.declared_size(path) == shown.shape[1:3]


def test_an_orientation_without_a_container_holds_for_clips(tmp_path, write_video, assert_whole):
    source = write_video(tmp_path / "source.ts", NUM_FRAMES, **B_FRAMES)
    options = "display_orientation=insert:rotate=90"
    path = filtered(source, tmp_path / "turned.ts", f"h264_metadata={options}")
    turned = np.rot90(np.stack(list(video.frames(source))), 1, (1, 2))
    np.testing.assert_array_equal(assert_whole(path, NUM_FRAMES), turned)


@pytest.mark.parametrize("suffix", [".wmv", ".mkv", ".mp4", ".ts"])
def test_sound_that_ends_later_is_no_damage(tmp_path, suffix, assert_whole):
    path = tmp_path / f"video{suffix}"
    codecs = ("wmv2", "wmav2") if suffix == ".wmv" else ("libx264", "aac")
    with av.open(path, "w") as container:
        stream = container.add_stream(codecs[0], rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream(codecs[1], rate=44100, layout="mono")
        sound.bit_rate = 64_000
        for value in range(20):
            picture = np.full((48, 64, 3), 5 * value, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
        for _ in range(200):
            noise = np.random.default_rng(0).normal(0, 0.1, (1, 1024)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
            frame.sample_rate = 44100
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    assert_whole(path, 20)


NO_FILES = ["pipe", "socket", "folder"]


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)  # addresses of sockets are short
    path = tmp_path / "video.mp4"
    with socket.socket(socket.AF_UNIX) as server:
        {"pipe": os.mkfifo, "folder": os.mkdir, "socket": server.bind}[kind]("video.mp4")
    for read in (
        video.declared_size,
        lambda x: list(video.frames(x)),
        lambda x: video.clip(x, 0, 4),
    ):
        with pytest.raises(video.DecodeError, match="video.mp4: not a regular file"):
            read(path)
    with pytest.raises(video.DecodeError, match="video.mp4: not a regular file"):
        video.probe(path, decode=True)
    table = tmp_path / "table.tsv"
    table.write_text("path\nvideo.mp4\n")
    with pytest.raises(manifest.ManifestError, match="1 of 1 videos.*\n.*video.mp4: not a reg"):
        verify.verify(manifest.read(table), on_error="error", decode=True, num_workers=1)


PIXELS = ["yuv444p", "yuv422p", "yuv420p10le", "yuv444p10le", "gray", "yuvj420p"]


@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("size", [(48, 64), (50, 66)])
def test_other_pixel_formats_are_read_to_their_end(tmp_path, pixels, size, assert_whole):
    path = tmp_path / "video.mkv"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25))
        stream.height, stream.width = size
        stream.pix_fmt, stream.options = pixels, {"g": "12"}
        for t in range(20):
            picture = np.full((*size, 3), 10 * t, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    whole = assert_whole(path, 20)
    assert whole.shape[1:] == (*size, 3)
    # x264 stores gray of full range without saying so, which players expand by up to 16 levels
    assert np.abs(np.median(whole, axis=(1, 2, 3)) - 10 * np.arange(20)).max() <= 16


FRAGMENTS = ["frag_keyframe+empty_moov", "faststart", "frag_every_frame"]


@pytest.mark.parametrize("flags", FRAGMENTS)
def test_fragmented_files_are_whole_and_their_parts_refused(
    tmp_path, write_video, flags, assert_refused, assert_whole, remuxed
):
    source = write_video(tmp_path / "source.mp4", NUM_FRAMES, **B_FRAMES)
    path = remuxed(source, tmp_path / "video.mp4", options={"movflags": flags})
    np.testing.assert_array_equal(
        assert_whole(path, NUM_FRAMES), np.stack(list(video.frames(source)))
    )
    contents = path.read_bytes()
    path.write_bytes(contents[: len(contents) * 3 // 4])
    assert_refused(path, "truncated|damaged|Invalid data|no frame")


SOUNDS = [".m4a", ".mka", ".mp4"]


@pytest.mark.parametrize("suffix", SOUNDS)
def test_a_file_of_sound_alone_is_refused(tmp_path, suffix, assert_refused):
    path = tmp_path / f"sound{suffix}"
    with av.open(path, "w") as container:
        stream = container.add_stream("aac", rate=16000)
        for _ in range(5):
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert_refused(path, "no video stream")


def verdicts():
    """Yield the kinds of input in this file, by verdict, as the rows of docs/inputs.md."""
    read, refused = "read to its end", "refused"
    yield from ((f"{name}, whole", read) for name in CONTAINERS)
    yield from ((f"{name}, the first half", refused) for name in CONTAINERS)
    yield from ((f"mp4 or mov with the display matrix {m}", "turned as shown") for m in MATRICES)
    yield from ((f"{pixels}, even and odd sizes", read) for pixels in PIXELS)
    yield from ((f"mp4 written with {flags}, whole", read) for flags in FRAGMENTS)
    yield from ((f"mp4 written with {flags}, three quarters", refused) for flags in FRAGMENTS)
    yield from ((f"{suffix} of sound alone", refused) for suffix in SOUNDS)
    yield from ((f"{kind} in the place of a file", refused) for kind in NO_FILES)
    yield "webm of a live stream, whole", read
    yield "webm of a live stream, half", refused
    yield "mp4 or mov with frames before an edit", "read without these frames"
    for suffix in ("mkv", "mp4", "mov"):
        yield f"{suffix} of two video streams", "the default stream is read"
    yield from ((name, read) for name in MORE)
    for name in OPEN:
        yield f"{name} that begins before its first key frame", "read from the key frame on"
    yield "avi or mov with a palette", read
    yield "h264 with margins to crop", "cropped as shown"
    yield "h264.ts with an orientation in the stream", "turned as shown"
    yield "wmv, mkv, mp4 or ts with sound that ends later", read
    yield from ((f"{suffix} whose resolution changes", refused) for suffix in ("ts", "mkv"))


def test_the_documentation_lists_every_kind_by_verdict(assert_documented):
    rows = list(verdicts())
    assert len(rows) >= 100
    assert_documented([("input", "verdict"), ("---", "---"), *rows])
