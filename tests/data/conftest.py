import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vcjax.data import manifest, verify, video


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """Writes a small video in which no two frames are alike."""

    def write(
        path,
        num_frames,
        *,
        codec="libx264",
        container=None,
        file=None,
        size=(48, 64),
        phase=0,
        pts=None,
        **options,
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = size
        rows, columns = np.mgrid[0:height, 0:width]
        pixels = {"gif": "rgb8", "apng": "rgb24"}.get(codec, "yuv420p")
        with av.open(file or path, "w", container, options={"fflags": "+bitexact"}) as output:
            stream = output.add_stream(codec, rate=Fraction(25))
            stream.width, stream.height, stream.pix_fmt = width, height, pixels
            stream.options = {"threads": "1", **options}
            for t in range(num_frames):
                wave = np.stack([rows + 5 * t, columns - 3 * t, rows + columns + 7 * t], axis=-1)
                picture = (127 + 120 * np.sin(wave / 9 + phase)).astype(np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                if pts:  # which of 1/25 s it is shown at
                    frame.pts, frame.time_base = pts(t), Fraction(1, 25)
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
        return path

    return write


@pytest.fixture(scope="session")
def collection(tmp_path_factory, write_video) -> manifest.Manifest:
    """Eleven videos of 5 to 15 frames, verified."""
    folder = tmp_path_factory.mktemp("collection")
    for i in range(11):
        write_video(folder / f"class{i % 2}" / f"video{i:02d}.mp4", 5 + i, phase=i)
    read = manifest.read(folder)
    return verify.verify(read, on_error="error", decode=True, num_workers=1)[0]


@pytest.fixture(scope="session")
def set_matrix() -> Callable[[Path, str], None]:
    """Writes the display matrix into the track's header of an mp4 or mov (ISO 14496-12, 8.3.2)."""

    def write(path, matrix):
        a, b, c, d = (int(x) << 16 for x in matrix.split())
        content = path.read_bytes()
        place = content.index(b"tkhd") + 4 + 40
        header = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
        path.write_bytes(content[:place] + header + content[place + len(header) :])

    return write


@pytest.fixture(scope="session")
def assert_whole() -> Callable[..., np.ndarray]:
    """Asserts that a file has some frames, and that clips show those with the same indices."""

    def check(path, num_frames):
        whole = np.stack(list(video.frames(path)))
        assert len(whole) == num_frames == video.probe(path, decode=True).num_frames
        assert video.probe(path, decode=False).num_frames == num_frames
        for start in (0, 1, 11 % num_frames, 13 % num_frames, num_frames // 2, num_frames - 4):
            expected = whole[(start + np.arange(6)) % num_frames]
            np.testing.assert_array_equal(video.clip(path, start, 6), expected, str(start))
        return whole

    return check


@pytest.fixture(scope="session")
def assert_refused() -> Callable[..., None]:
    """Asserts that verification and reading refuse a file, and thus `prepare` and `extract`."""

    def check(path, reason):
        for read in (lambda: video.probe(path, decode=True), lambda: list(video.frames(path))):
            with pytest.raises(video.DecodeError, match=reason) as raised:
                read()
            assert str(path) in str(raised.value) and "\n" not in str(raised.value)

    return check


@pytest.fixture(scope="session")
def remuxed() -> Callable[..., Path]:
    """Copies the video of a file packet by packet, without the packets that `change` rejects."""

    def copy(source, path, change=lambda packet: packet, options=None):
        with av.open(source) as packets, av.open(path, "w", options=options or {}) as container:
            stream = container.add_stream_from_template(packets.streams.video[0])
            for packet in packets.demux(video=0):
                if packet.dts is not None and (packet := change(packet)):
                    packet.stream = stream
                    container.mux(packet)
        return path

    return copy


@pytest.fixture(scope="session")
def delayed() -> Callable[..., av.Packet]:
    """Returns a packet with time stamps that are later by some frames."""

    def delay(packet, frames):
        packet.pts += int(frames / 25 / packet.time_base)
        packet.dts += int(frames / 25 / packet.time_base)
        return packet

    return delay


@pytest.fixture(scope="session")
def assert_documented() -> Callable[[list[tuple[str, str]]], None]:
    """Asserts that rows (input, verdict) are in the table of docs/inputs.md, in this order."""
    text = (Path(__file__).parents[2] / "docs" / "inputs.md").read_text("utf-8")

    def check(rows):
        lines = [f"| {kind} | {verdict} |" for kind, verdict in rows]
        assert "\n".join(lines).replace("| --- | --- |", "|---|---|") + "\n" in text

    return check
