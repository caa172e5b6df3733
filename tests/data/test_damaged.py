"""Files as they come: each is decoded to the right frames, or listed with a reason.

All is done in another process, which neither dies nor takes long. VCJAX_DAMAGED says how many.
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction

import av
import numpy as np
import pytest

from vcjax.data import __main__ as command
from vcjax.data import manifest, verify, video
from vcjax.idt import __main__ as idt_command

NUM_FILES = int(os.environ.get("VCJAX_DAMAGED", "40"))
NUM_FRAMES = 30
SECONDS = 60  # for one file, on a loaded machine


@pytest.fixture(scope="module")
def wholes(tmp_path_factory, write_video):
    """The same moments, with what is needed to read them at the end, the beginning and all over."""
    folder = tmp_path_factory.mktemp("wholes")
    last = write_video(folder / "index_last.mp4", NUM_FRAMES, g="8")
    return [
        last,
        index_first(last, folder / "index_first.mp4"),
        write_video(folder / "video.mkv", NUM_FRAMES, g="8"),
        write_video(folder / "video.avi", NUM_FRAMES, codec="mpeg4", g="8"),
    ]


def index_first(source, path):
    with (
        av.open(source) as packets,
        av.open(path, "w", options={"movflags": "faststart"}) as container,
    ):
        stream = container.add_stream_from_template(packets.streams.video[0])
        for packet in packets.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    return path


@pytest.fixture
def worker():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        yield lambda function, *a, **k: pool.submit(function, *a, **k).result(SECONDS)


def judged(worker, path):
    """Number of frames or the reason, as the manifest's stage asks for it."""
    (result,) = worker(verify.probe_all, [str(path)], decode=True, num_workers=1)
    return result


def assert_clips_are_parts(worker, path, count):
    """Wherever a clip begins, its frames are those that decoding the whole file gives there."""
    whole = np.stack(list(video.frames(path)))
    assert len(whole) == count
    for start in {0, count // 3, count - 1}:
        wanted = whole[(start + np.arange(5)) % count]
        np.testing.assert_array_equal(worker(video.clip, str(path), start, 5), wanted)
    return whole


def assert_listed(reason):
    assert isinstance(reason, str) and reason and "\n" not in reason


def damaged(contents, kind, generator):
    """The bytes of a file cut short, or with bits flipped, or a part of it gone or zero."""
    data = bytearray(contents)
    place = int(generator.integers(1, len(data)))
    length = int(generator.integers(1, 400))
    if kind == "cut":
        return bytes(data[:place])
    if kind == "head":  # as of a header, where most of the structure is
        return bytes(data[: 1 + place % 200])
    if kind == "gone":
        return bytes(data[:place] + data[place + length :])
    if kind == "zeros":
        data[place : place + length] = bytes(len(data[place : place + length]))
    else:
        for at in generator.integers(len(data), size=int(generator.integers(1, 30))):
            data[at] ^= 1 << int(generator.integers(8))
    return bytes(data)


def moments(frames, undamaged):
    """Which frame of the undamaged video each looks like most."""
    return np.array([np.abs(undamaged - frame).mean(axis=(1, 2, 3)).argmin() for frame in frames])


def test_damage_anywhere_is_decoded_or_listed(tmp_path, wholes, worker):
    """What is decoded shows the moments that the whole file shows there, blurred as they may be."""
    kinds = ("cut", "flipped", "gone", "zeros", "head")
    counts = {"decoded": 0, "listed": 0, "listed when a clip is read": 0}
    for number in range(NUM_FILES):
        source = wholes[number % len(wholes)]
        path = tmp_path / f"{number}{source.suffix}"
        generator = np.random.default_rng(number)
        path.write_bytes(damaged(source.read_bytes(), kinds[number % len(kinds)], generator))
        result = judged(worker, path)
        if isinstance(result, str):
            assert_listed(result)
            counts["listed"] += 1
            continue
        undamaged = np.stack(list(video.frames(source))).astype(np.int16)
        try:
            for start in (0, result // 2):
                clip = worker(video.clip, str(path), start, 5)
                whole = np.stack(list(video.frames(path)))
                wanted = whole[(start + np.arange(5)) % result]
                difference = moments(clip, undamaged) - moments(wanted, undamaged)
                # a decoder hides damage by what it decoded before, which depends on the beginning
                assert np.median(np.abs(difference)) <= 3, path.name
            counts["decoded"] += 1
        except video.DecodeError as error:
            assert_listed(str(error))
            counts["listed when a clip is read"] += 1
    assert counts["listed"] and counts["decoded"]  # not always fatal, nor never felt
    print(NUM_FILES, "damaged files:", counts)


@pytest.mark.parametrize("source", range(4))
def test_what_is_decoded_of_a_cut_file_is_its_beginning(tmp_path, wholes, worker, source):
    source = wholes[source]
    whole = np.stack(list(video.frames(source)))
    contents = source.read_bytes()
    for share in (0.3, 0.6, 0.9, 0.999):
        path = tmp_path / f"{share}{source.suffix}"
        path.write_bytes(contents[: int(share * len(contents))])
        result = judged(worker, path)
        if isinstance(result, str):
            assert_listed(result)
        else:
            assert result <= NUM_FRAMES  # of the last frame only a part may be there
            part = assert_clips_are_parts(worker, path, result)
            np.testing.assert_array_equal(part[:-1], whole[: result - 1])


def write(path, size, pix_fmt, codec, num_frames=6):
    height, width = size
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for t in range(num_frames):
            picture = np.full((height, width, 3), 20 + 40 * t, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    "name, size, pix_fmt, codec, num_frames",
    [
        ("one_frame.mp4", (48, 64), "yuv420p", "libx264", 1),
        ("one_pixel.mkv", (1, 1), "yuv444p", "ffv1", 6),
        ("ten_bits.mp4", (48, 64), "yuv420p10le", "libx264", 6),
        ("odd.avi", (47, 63), "yuv420p", "mpeg4", 6),
        ("grey.mkv", (47, 63), "gray", "ffv1", 6),
    ],
)
def test_unusual_pictures_are_decoded(tmp_path, worker, name, size, pix_fmt, codec, num_frames):
    path = write(tmp_path / name, size, pix_fmt, codec, num_frames)
    assert judged(worker, path) == num_frames
    whole = assert_clips_are_parts(worker, path, num_frames)
    assert whole.shape[1:] == (*size, 3)
    levels = 20 + 40 * np.arange(num_frames)
    assert np.abs(whole.mean(axis=(1, 2, 3)) - levels).max() < 4


def test_uneven_times_are_no_obstacle(tmp_path, write_video, worker):
    path = write_video(tmp_path / "uneven.mp4", 20, g="8", bf="0", pts=lambda t: t * (t + 1) // 2)
    assert judged(worker, path) == 20
    assert_clips_are_parts(worker, path, 20)


def test_the_name_of_another_container_does_not_matter(tmp_path, wholes, worker):
    for source, suffix in zip(wholes, (".avi", ".webm", ".mp4", ".mp4"), strict=True):
        path = tmp_path / (source.stem + suffix)
        path.write_bytes(source.read_bytes())
        assert judged(worker, path) == NUM_FRAMES
        whole = assert_clips_are_parts(worker, path, NUM_FRAMES)
        np.testing.assert_array_equal(whole, np.stack(list(video.frames(source))))


def test_a_huge_declared_size_is_listed_or_decoded_as_it_is(tmp_path, wholes, worker):
    contents = wholes[3].read_bytes()
    sizes = np.array([64, 48], "<u4").tobytes()
    assert sizes in contents
    path = tmp_path / "huge.avi"
    path.write_bytes(contents.replace(sizes, np.array([60_000, 60_000], "<u4").tobytes()))
    result = judged(worker, path)
    if isinstance(result, str):
        assert_listed(result)
    else:  # the stream itself has the true size
        assert assert_clips_are_parts(worker, path, result).shape[1:] == (48, 64, 3)


@pytest.mark.parametrize("contents", [b"", bytes(5000), b"PK\x03\x04" + bytes(range(256)) * 9])
def test_no_video_at_all_is_listed(tmp_path, worker, contents):
    path = tmp_path / "video.mp4"
    path.write_bytes(contents)
    assert_listed(judged(worker, path))


@pytest.mark.parametrize("turns, matrix", [(3, "0 1 -1 0"), (1, "0 -1 1 0"), (2, "-1 0 0 -1")])
def test_a_picture_shown_turned_is_turned(worker, write_video, set_matrix, tmp_path, turns, matrix):
    """As telephones write it: the matrix of the track's header (ISO 14496-12, 8.3.2)."""
    path = write_video(tmp_path / "turned.mp4", 6)
    upright = np.stack(list(video.frames(path)))
    set_matrix(path, matrix)
    assert judged(worker, path) == 6
    turned = assert_clips_are_parts(worker, path, 6)
    np.testing.assert_array_equal(turned, np.rot90(upright, turns, axes=(1, 2)))


def test_a_file_of_sound_alone_is_listed_with_that_reason(worker, tmp_path):
    with av.open(tmp_path / "sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), "fltp", "mono")
        sound.sample_rate = 44100
        for packet in (*stream.encode(sound), *stream.encode()):
            container.mux(packet)
    assert "there is no video stream in the file" in judged(worker, tmp_path / "sound.mp4")


@pytest.fixture
def half(tmp_path, write_video):
    """A folder of one whole video and half a webm file."""
    write_video(tmp_path / "in" / "whole.mp4", 20)
    path = write_video(tmp_path / "in" / "half.webm", 20, codec="libvpx-vp9")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return tmp_path / "in"


def test_prepare_refuses_half_a_video(half, tmp_path):
    arguments = ["prepare", str(half), str(tmp_path / "out"), "--num_workers=1"]
    with pytest.raises(SystemExit, match="(?s)1 of 2 videos.*half\\.webm: .*truncated"):
        command.main(arguments)
    command.main([*arguments, "--on_error=skip"])
    assert manifest.read(tmp_path / "out").video_ids == ("whole",)


def test_extraction_refuses_half_a_video(half, tmp_path):
    arguments = ["extract", f"--manifest={half}", f"--out={tmp_path}", "--num_workers=1"]
    with pytest.raises(SystemExit, match="(?s)1 videos failed.*half\\.webm: .*truncated"):
        idt_command.main(arguments)
