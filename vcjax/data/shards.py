"""Videos in ArrayRecord shards, in chunks of 16 frames that are decoded independently.

The path of a video is `SHARD.array_record#POSITION:FRAMES`: the number of frames, and the position
of its first record in the shard. A record contains one chunk: an mp4 file with an h264 stream, or
JPEG pictures after a header. The header is the letters JPEG, the number of pictures, and the offset
in the record at which each picture ends (little-endian uint32).
"""

import functools
import io
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from vcjax.runtime import filesystem

Frame = UInt8[np.ndarray, "h w 3"]

CHUNK = 16  # frames per record
CODECS = ("jpeg", "h264")
JPEG_QUALITY = 85
_MAGIC = b"JPEG"
_OPEN_SHARDS = 128  # shards that a process keeps open


class Reference(NamedTuple):
    """Location of a video: consecutive records of a shard."""

    shard: str
    position: int  # of the first record
    num_frames: int

    def __str__(self) -> str:
        return f"{self.shard}#{self.position}:{self.num_frames}"


def parse(path: str) -> Reference | None:
    """Return the location in a shard that `path` refers to, or None if it is a video file."""
    match = re.fullmatch(r"(.+\.array_record)#(\d+):(\d+)", path)
    return Reference(match[1], int(match[2]), int(match[3])) if match else None


def file_of(path: str) -> str:
    """Return the file that contains the video: the shard or record file, or `path` itself."""
    match = re.fullmatch(r"(.+\.array_record(-\d+-of-\d+)?)#\d+[:@].+", path)
    return match[1] if match else path


def encode(frames: Iterable[Frame], codec: str) -> Iterator[bytes]:
    """Yield one record for every `CHUNK` frames, in order; `codec` is jpeg or h264."""
    frames = iter(frames)
    while chunk := list(islice(frames, CHUNK)):
        yield _jpeg(chunk) if codec == "jpeg" else _h264(chunk)


def num_chunks(num_frames: int) -> int:
    """Return the number of records of a video."""
    return -(-num_frames // CHUNK)


class Writer:
    """Writer of an ArrayRecord file, which is read back when the context ends without an error.

    Args:
      path: local file to write.
      codec: encoding of the frames that are appended, jpeg or h264.
    """

    def __init__(self, path: Path, codec: str = "jpeg") -> None:
        from array_record.python import array_record_module

        self._path, self._codec = path, codec
        self._frames: list[Frame] = []
        self._checksums: list[int] = []
        self._writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")

    def append(self, frame: Frame) -> None:
        """Add a frame of the current video."""
        self._frames.append(frame)
        if len(self._frames) == CHUNK:
            self._flush()

    def write(self, record: bytes) -> None:
        """Add a record."""
        self._writer.write(record)
        self._checksums.append(zlib.crc32(record))

    def _flush(self) -> None:
        for record in encode(self._frames, self._codec):
            self.write(record)
        self._frames = []

    def __enter__(self) -> "Writer":
        """Return the writer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write the last records and verify all.

        Raises:
          OSError: if a record does not read back as written.
        """
        if kind is None:
            self._flush()
        self._writer.close()
        if kind is None:
            _verify(self._path, self._checksums)


def _verify(path: Path, checksums: Sequence[int]) -> None:
    from array_record.python import array_record_module

    reader = array_record_module.ArrayRecordReader(str(path))
    same = reader.num_records() == len(checksums) and all(
        zlib.crc32(reader.read([i])[0]) == checksum for i, checksum in enumerate(checksums)
    )
    reader.close()
    if not same:
        raise OSError(f"{path}: the shard does not read back as written; is the disk full?")


def reduce(frame: Frame, side: int) -> Frame:
    """Return the frame with a short side of at most about `side` pixels, in even sizes for h264."""
    height, width = frame.shape[:2]
    scale = min(1.0, side / min(height, width))
    size = [max(2, 2 * round(x * scale / 2)) for x in (width, height)]
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def read(reference: Reference, indices: Sequence[int]) -> list[Frame]:
    """Return the frames `indices` of the video, RGB in [0, 255]; read only their chunks.

    Raises:
      ValueError: if a frame cannot be decoded.
    """
    chunks = sorted({frame // CHUNK for frame in indices})
    records = _reader(reference.shard).read([reference.position + chunk for chunk in chunks])
    frames: dict[int, Frame] = {}
    for chunk, record in zip(chunks, records, strict=True):
        within = sorted({frame - chunk * CHUNK for frame in indices if frame // CHUNK == chunk})
        pictures = _decode(record, within)
        frames |= {chunk * CHUNK + i: p for i, p in zip(within, pictures, strict=True)}
    return [frames[frame] for frame in indices]


def record(file: str, position: int) -> bytes:
    """Return a record of an ArrayRecord file.

    Raises:
      RuntimeError: if the file is damaged.
    """
    return _reader(file).read([position])[0]


def copy(file: str, position: int, count: int, writer: Writer) -> None:
    """Append `count` records of a file, from `position` on, to `writer`.

    The file is opened for this call alone, since a file that is copied is soon replaced.
    """
    reader = _reader.__wrapped__(file)
    try:
        for number in range(position, position + count):
            writer.write(reader.read([number])[0])
    finally:
        reader.close()


def num_records(file: str) -> int:
    """Return the number of records in an ArrayRecord file."""
    return _reader(file).num_records()


def decode_picture(data: bytes) -> Frame:
    """Return a decoded picture, RGB in [0, 255].

    Raises:
      ValueError: if the data is not a picture.
    """
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError("a picture cannot be decoded")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def check(reference: Reference) -> None:
    """Read all records of the video; ArrayRecord raises an error if a checksum does not match."""
    num_records = -(-reference.num_frames // CHUNK)
    _reader(reference.shard).read(range(reference.position, reference.position + num_records))


def is_intact(file: str) -> bool:
    """Read all records of a file; return False if the checksum of any does not match."""
    try:
        reader = _reader.__wrapped__(file)
        try:
            reader.read_all()
        finally:
            reader.close()
    except (ValueError, OSError, RuntimeError, IndexError):
        return False
    return True


def _decode(record: bytes, indices: Sequence[int]) -> list[Frame]:
    if record[:4] != _MAGIC:
        return _decode_h264(record, indices)
    count = int(np.frombuffer(record, "<u4", 1, 4)[0])
    ends = np.frombuffer(record, "<u4", count, 8)
    begins = np.concatenate([[8 + 4 * count], ends[:-1]])
    return [decode_picture(record[begins[i] : ends[i]]) for i in indices]


def _decode_h264(record: bytes, indices: Sequence[int]) -> list[Frame]:
    import av

    with av.open(io.BytesIO(record), "r") as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        frames = list(islice(container.decode(stream), indices[-1] + 1))
        return [frames[index].to_ndarray(format="rgb24", threads=1) for index in indices]


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
