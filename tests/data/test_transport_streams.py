"""MPEG transport streams: recordings that are cut, that lost packets, or that were joined."""

import functools

import av
import numpy as np
import pytest

from vcjax.data import video

NUM_FRAMES = 40
GOP = {"g": "12"}
B_FRAMES = {"g": "12", "bf": "2"}
LOSSY = {  # name: options
    "h264.ts": GOP | {"bf": "0"},
    "h264 and B-frames.ts": B_FRAMES,
    "hevc.ts": {"codec": "libx265", "g": "12"},
    "mpeg2.ts": {"codec": "mpeg2video", "g": "12", "bf": "2"},
    "mpeg4.ts": {"codec": "mpeg4", "g": "12"},
}


@pytest.mark.parametrize("packets", [0.4, 0.5, 0.6, 0.7, 0.8])
def test_a_stream_that_ends_between_transport_packets_is_refused(
    tmp_path, write_video, packets, assert_refused
):
    path = write_video(tmp_path / "cut.ts", NUM_FRAMES, size=(96, 128), **GOP)
    contents = path.read_bytes()
    last = int(packets * len(contents)) // 188
    # until a packet of the video that does not end a frame
    while (
        contents[188 * last - 187 : 188 * last - 185] != b"\1\0" or contents[188 * last - 185] & 32
    ):
        last -= 1
    path.write_bytes(contents[: 188 * last])
    assert_refused(path, "truncated|damaged")


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("share", [0, 0.1])
def test_a_stream_that_lost_packets_within_is_refused(
    tmp_path, write_video, name, share, assert_refused
):
    """One packet of a frame, or a tenth of all packets, that are missing within a recording."""
    path = write_video(tmp_path / "video.ts", NUM_FRAMES, size=(96, 128), **LOSSY[name])
    contents = path.read_bytes()
    packets = [contents[i : i + 188] for i in range(0, len(contents), 188)]
    lost = max(1, int(share * len(packets)))
    numbers = frame_numbers(packets)
    with av.open(path) as container:
        keys = {i for i, p in enumerate(container.demux(video=0)) if p.is_keyframe}
    # not directly before a key frame, where counters also jump if files are joined
    inner = [n is not None and 12 < n < 36 and not keys & {n, n + 1, n + 2} for n in numbers]
    within = [i for i in range(len(inner) - lost) if inner[i] and inner[i + lost]]
    for first in within[:: -(-len(within) // 8)]:
        if sum(n is not None for n in numbers[first : first + lost]) % 16 == 0:
            continue  # the counter has 4 bits
        path.write_bytes(b"".join(packets[:first] + packets[first + lost :]))
        assert_refused(path, "packets are missing|damaged")
        with pytest.raises(video.DecodeError, match="packets are missing"):
            video.clip(path, 5, 4)  # also of a file that was not verified


def frame_numbers(packets):
    """Return the number of the frame in each MPEG-TS packet, None in packets of tables."""
    numbers, count = [], -1
    for packet in packets:
        is_video = int.from_bytes(packet[1:3]) & 0x1FFF == 256
        count += is_video and bool(packet[1] & 0x40)
        numbers.append(count if is_video else None)
    return numbers


@pytest.mark.parametrize("name", LOSSY)
def test_streams_that_were_joined_are_read(tmp_path, write_video, name, delayed, remuxed):
    """Counters and time stamps begin again, or the time continues as in segments of a stream."""
    source, path = write_video(tmp_path / "a.ts", 24, **LOSSY[name]), tmp_path / "joined.ts"
    whole = np.stack(list(video.frames(source)))
    path.write_bytes(source.read_bytes() * 3)
    np.testing.assert_array_equal(np.stack(list(video.frames(path))), np.concatenate([whole] * 3))
    later = remuxed(source, tmp_path / "b.ts", functools.partial(delayed, frames=24))
    path.write_bytes(source.read_bytes() + later.read_bytes())
    np.testing.assert_array_equal(np.stack(list(video.frames(path))), np.concatenate([whole] * 2))


def test_the_documentation_lists_every_kind_by_verdict(assert_documented):
    rows = [("ts that ends within a frame", "refused")]
    for name in LOSSY:
        rows.append((f"{name}, one packet or a tenth missing within", "refused"))
        rows.append((f"{name}, joined from several", "read to its end"))
    assert_documented(rows)
