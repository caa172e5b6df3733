"""Detection of video files that end early, by the structure of their container."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675  # Matroska: all clusters, some blocks (RFC 9559)
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # GUID of the file properties
_UNSTATED, _HAS_INDEX = 0xFFFFFFFF, 0x10  # AVI: a length, a flag of the main header
_MAX_TS_PACKETS = 1 << 14  # at the end of a file, more than a picture
_MAX_OGG_PAGE = 65_307  # bytes, header included (RFC 3533)


def is_cut(file: Path, container: str) -> bool:
    """Return True if a file is shorter than its container states, or lacks its end mark.

    Args:
        file: Local file.
        container: Name of the demuxer in FFmpeg. The result is False for containers without such
            information.
    """
    check = _CHECKS.get(container)
    if check is None:
        return False
    with file.open("rb") as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        return check(stream, size)


def _matroska(stream: BinaryIO, size: int) -> bool:
    position = 0
    while position < size:
        stream.seek(position)
        head = stream.read(12)
        id_length, size_length = _length(head, 0), _length(head, _length(head, 0))
        if not id_length or id_length > 4:  # damage, which the decoder judges
            return False
        start = id_length + size_length
        if len(head) < start or not size_length:
            return len(head) < 12
        element = int.from_bytes(head[:id_length])
        unknown = (1 << 7 * size_length) - 1
        num_bytes = int.from_bytes(head[id_length:start]) & unknown
        position += start
        if num_bytes == unknown:  # a live stream: the content of the element follows
            if element not in (_SEGMENT, _CLUSTER):
                return False
        else:
            position += num_bytes
    return position > size


def _length(head: bytes, offset: int) -> int:
    """Return the length of the EBML number at `offset` (RFC 8794, Sec. 4), 0 if there is none."""
    return 9 - head[offset].bit_length() if offset < len(head) and head[offset] else 0


def _avi(stream: BinaryIO, size: int) -> bool:
    position = 0
    while position + 8 <= size:
        stream.seek(position)
        head = stream.read(45)
        num_bytes = int.from_bytes(head[4:8], "little")
        if head[:4] != b"RIFF" or not num_bytes:
            return False
        if num_bytes == _UNSTATED and not int.from_bytes(head[44:]) & _HAS_INDEX:
            return False  # written to a pipe
        position += 8 + num_bytes
    return position > size


def _mpegts(stream: BinaryIO, size: int) -> bool:
    head = stream.read(5 * 204)
    for length, offset in ((188, 0), (192, 4), (204, 0)):
        if all(head[i : i + 1] in (b"G", b"") for i in range(offset, len(head), length)):
            stream.seek(max(0, size // length - _MAX_TS_PACKETS) * length)
            tail = stream.read()
            packets = [tail[i : i + 188] for i in range(offset, len(tail), length)]
            return size % length != 0 or _has_partial_unit(packets)
    return False


def _has_partial_unit(packets: list[bytes]) -> bool:
    """Return True if the last unit of a stream within MPEG-TS packets is incomplete.

    A unit is a PES packet (ISO 13818-1, Sec. 2.4.3.6). If it states no length, its last packet has
    stuffing, except for one length in 184.
    """
    units: dict[int, list[int]] = {}  # stated and received bytes, and bytes of the last packet
    for packet in packets:
        if len(packet) < 188 or not packet[3] & 0x10:  # no payload
            continue
        payload = packet[5 + packet[4] if packet[3] & 0x20 else 4 :]
        stream_id = int.from_bytes(packet[1:3]) & 0x1FFF
        if packet[1] & 0x40:  # a unit begins
            stated = int.from_bytes(payload[4:6])
            units[stream_id] = [6 + stated if stated else 0, 0, 0]
            if payload[:3] != b"\0\0\1":  # a table
                del units[stream_id]
        if unit := units.get(stream_id):
            unit[1:] = [unit[1] + len(payload), len(payload)]
    return any(got < stated or (not stated and last == 184) for stated, got, last in units.values())


def _mpeg(stream: BinaryIO, size: int) -> bool:
    start = max(0, size - (1 << 17))  # a PES packet has at most 2^16 + 5 bytes
    stream.seek(start)
    tail = stream.read()
    place = max(tail.rfind(b"\0\0\1" + bytes([kind])) for kind in (0xE0, 0xC0, 0xBD, 0xBE))
    return place >= 0 and place + 6 + int.from_bytes(tail[place + 4 : place + 6]) > len(tail)


def _asf(stream: BinaryIO, size: int) -> bool:
    head = stream.read(1 << 16)
    start = head.find(_ASF_FILE)
    return start >= 0 and size < int.from_bytes(head[start + 40 : start + 48], "little")


def _ogg(stream: BinaryIO, size: int) -> bool:
    stream.seek(max(0, size - _MAX_OGG_PAGE))
    tail = stream.read()
    page = tail.rfind(b"OggS")
    return page < 0 or not tail[page + 5 : page + 6] or not tail[page + 5] & 4  # end of stream


def _gif(stream: BinaryIO, size: int) -> bool:
    stream.seek(max(0, size - 64))
    return not stream.read().rstrip(b"\0").endswith(b";")


_CHECKS: dict[str, Callable[[BinaryIO, int], bool]] = {
    "matroska,webm": _matroska,
    "avi": _avi,
    "mpegts": _mpegts,
    "mpeg": _mpeg,
    "asf": _asf,
    "ogg": _ogg,
    "gif": _gif,
}
