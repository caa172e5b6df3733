"""Videos in ArrayRecord shards: chunks of 16 frames, each decoded without the others.

A video is named `SHARD.array_record#POSITION:FRAMES`, the records from POSITION on of a shard. A
record is an h264 stream in mp4 of up to 16 frames, or JPEG pictures behind a table: the letters
JPEG, how many, where each ends (little-endian uint32).
"""

import functools
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from vcjax.runtime import filesystem

Frame = UInt8[np.ndarray, "h w 3"]

CHUNK = 16  # frames of a record
CODECS = ("jpeg", "h264")
JPEG_QUALITY = 85
_MAGIC = b"JPEG"
_OPEN_SHARDS = 128  # kept open by a process


class Reference(NamedTuple):
    """Where a video is."""

    shard: str
    position: int  # of its first record
    num_frames: int

    def __str__(self) -> str:
        return f"{self.shard}#{self.position}:{self.num_frames}"


def parse(path: str) -> Reference | None:
    """The place in a shard that `path` names, None for a file of its own."""
    match = re.fullmatch(r"(.+\.array_record)#(\d+):(\d+)", path)
    return Reference(match[1], int(match[2]), int(match[3])) if match else None


def file_of(path: str) -> str:
    """The file in which the video that `path` names is one of many, or which it is."""
    match = re.fullmatch(r"(.+\.array_record(-\d+-of-\d+)?)#\d+[:@].+", path)
    return match[1] if match else path


def encode(frames: Iterable[Frame], codec: str) -> Iterator[bytes]:
    """Records of `frames` in order, one for every `CHUNK` of them."""
    frames = iter(frames)
    while chunk := list(islice(frames, CHUNK)):
        yield _jpeg(chunk) if codec == "jpeg" else _h264(chunk)


def read(reference: Reference, wanted: Sequence[int]) -> list[Frame]:
    """Frames `wanted` of the video, RGB; nothing but their chunks is read. Raises ValueError."""
    chunks = sorted({frame // CHUNK for frame in wanted})
    records = _reader(reference.shard).read([reference.position + chunk for chunk in chunks])
    found: dict[int, Frame] = {}
    for chunk, record in zip(chunks, records, strict=True):
        within = sorted({frame - chunk * CHUNK for frame in wanted if frame // CHUNK == chunk})
        pictures = _decode(record, within)
        found |= {chunk * CHUNK + i: p for i, p in zip(within, pictures, strict=True)}
    return [found[frame] for frame in wanted]


def record(file: str, position: int) -> bytes:
    """A record of an ArrayRecord file. Raises RuntimeError."""
    return _reader(file).read([position])[0]


def num_records(file: str) -> int:
    """How many records an ArrayRecord file has."""
    return _reader(file).num_records()


def decode_picture(data: bytes) -> Frame:
    """An encoded picture, RGB. Raises ValueError."""
    return _picture(np.frombuffer(data, np.uint8))


def check(reference: Reference) -> None:
    """Reads the video's records, which have checksums. Raises what ArrayRecord does of others."""
    num_records = -(-reference.num_frames // CHUNK)
    _reader(reference.shard).read(range(reference.position, reference.position + num_records))


def _decode(record: bytes, wanted: Sequence[int]) -> list[Frame]:
    if record[:4] != _MAGIC:
        return _decode_h264(record, wanted)
    count = int(np.frombuffer(record, "<u4", 1, 4)[0])
    ends = np.frombuffer(record, "<u4", count, 8)
    begins = np.concatenate([[8 + 4 * count], ends[:-1]])
    data = np.frombuffer(record, np.uint8)
    return [_picture(data[begins[i] : ends[i]]) for i in wanted]


def _picture(data: UInt8[np.ndarray, " bytes"]) -> Frame:
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError("a picture cannot be decoded")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _decode_h264(record: bytes, wanted: Sequence[int]) -> list[Frame]:
    import av

    found: list[Frame] = []
    with av.open(io.BytesIO(record), "r") as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                found.append(frame.to_ndarray(format="rgb24", threads=1))
            if index == wanted[-1]:
                break
    return found


def _jpeg(frames: Sequence[Frame]) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    pictures = [
        cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)[1].tobytes()
        for frame in frames
    ]
    ends = np.cumsum([len(picture) for picture in pictures]) + 8 + 4 * len(pictures)
    table = np.array([len(pictures), *ends], "<u4").tobytes()
    return _MAGIC + table + b"".join(pictures)


def _h264(frames: Sequence[Frame]) -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "23", "bf": "0", "g": str(CHUNK), "threads": "1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


@functools.lru_cache(_OPEN_SHARDS)
def _reader(shard: str) -> Any:
    from array_record.python import array_record_module

    return array_record_module.ArrayRecordReader(
        str(filesystem.cached(shard)),
        options="readahead_buffer_size:0",
        file_reader_buffer_size=32768,
    )
