"""Trajectory files: one Parquet file per video, with checksums and the inputs it was made from.

A file contains the columns of `Trajectories` in row groups, so that the trajectories of a video may
exceed memory.
"""

import hashlib
import json
import urllib.parse
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from vcjax.idt.trajectories import COLUMNS, Trajectories, with_time
from vcjax.runtime import atomic

_SUFFIX = ".idt.parquet"
# Descriptors lie in [0, 1], where float16 is precise enough.
_TYPES = {
    name: np.dtype(np.float32 if name in ("header", "trajectory") else np.float16)
    for name in COLUMNS
}
_SCHEMA = pa.schema(
    pa.field(
        name,
        pa.list_(pa.field("element", pa.from_numpy_dtype(_TYPES[name]), nullable=False), width),
        nullable=False,
    )
    for name, width in COLUMNS.items()
)
_NAME_LENGTH = 80  # characters of the encoded video id that its file name contains
_GROUP_ROWS = 4096  # of a row group, at most
_REMEDY = "extract the video with the stage idt or `vcjax idt extract`"


class StorageError(ValueError):
    """A trajectory file is missing, damaged, or of another format; the message names it."""


def path_of(directory: Path, video_id: str) -> Path:
    """Return the path of a video's trajectories in `directory`; each id has a file of its own."""
    encoded = video_id.encode("utf-8", "surrogatepass")
    shown = urllib.parse.quote_from_bytes(encoded, safe="").replace(".", "%2E")[:_NAME_LENGTH]
    return directory / f"{shown}-{hashlib.blake2b(encoded, digest_size=10).hexdigest()}{_SUFFIX}"


def write(path: Path, trajectories: Trajectories, *, source: Mapping[str, Any] = {}) -> None:
    """Write the trajectories of a video atomically.

    `source` describes the inputs that they were made from, as any mapping that JSON can hold.
    """
    with _writer(path) as writer:
        writer.write_table(_table(trajectories), _GROUP_ROWS)
        _add_properties(writer, source=source, num_frames=None)


def write_frames(
    path: Path, frames: Iterable[Trajectories], *, source: Mapping[str, Any] = {}
) -> int:
    """Write the trajectories of each frame as they arrive and return the number of rows.

    The last header column of `frames` is the middle frame of a trajectory; readers return it as a
    fraction of the video.
    """
    with writer(path, source=source) as frame_writer:
        for rows in frames:
            frame_writer.append(rows)
    return frame_writer.num_rows


class Writer:
    """Writer of a trajectory file, frame by frame.

    Attributes:
        num_rows: Number of rows so far.
        num_frames: Number of frames so far.
    """

    def __init__(self, file: parquet.ParquetWriter) -> None:
        self._file, self._tables, self._pending = file, list[pa.Table](), 0
        self.num_rows = self.num_frames = 0

    def append(self, rows: Trajectories) -> None:
        """Add the trajectories that end on the next frame."""
        self.num_frames += 1
        self.num_rows += rows.num_rows
        if rows.num_rows:
            self._tables.append(_table(rows))
            self._pending += rows.num_rows
        if self._pending >= _GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are in memory."""
        if self._tables:
            self._file.write_table(pa.concat_tables(self._tables), _GROUP_ROWS)
        self._tables, self._pending = [], 0


@contextmanager
def writer(path: Path, *, source: Mapping[str, Any] = {}) -> Iterator[Writer]:
    """Yield a writer; the file appears when the block ends without an error.

    The last header column of the rows is the middle frame, as for `write_frames`.
    """
    with _writer(path) as file:
        frames = Writer(file)
        yield frames
        frames.flush()
        _add_properties(file, source=source, num_frames=frames.num_frames)


class _Writer(parquet.ParquetWriter):
    """Writer of tables and of the checksums of their columns."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.checksums = [0] * len(_SCHEMA)
        super().__init__(*args, **options)

    def write_table(self, table: pa.Table, row_group_size: int | None = None) -> None:
        """Append the rows of the table."""
        super().write_table(table, row_group_size)
        self.checksums = _checksums(table, self.checksums)


@contextmanager
def _writer(path: Path) -> Iterator[_Writer]:
    with (
        atomic.atomic_write(path) as file,
        _Writer(
            file,
            _SCHEMA,
            compression="zstd",
            use_dictionary=False,
            use_byte_stream_split=True,  # compresses floating-point numbers better
            write_statistics=False,
            write_page_checksum=True,
        ) as writer,
    ):
        yield writer


def _table(rows: Trajectories) -> pa.Table:
    arrays = [
        pa.FixedSizeListArray.from_arrays(
            pa.array(array.astype(_TYPES[name]).reshape(-1)), type=_SCHEMA.field(name).type
        )
        for name, array in rows._asdict().items()
    ]
    return pa.table(arrays, schema=_SCHEMA)


def _add_properties(writer: _Writer, **properties: Any) -> None:
    """Add the properties to the footer with a checksum, since checksums of pages exclude it."""
    text = json.dumps(properties | {"columns": writer.checksums}, sort_keys=True)
    writer.add_key_value_metadata({"properties": text, "crc32": str(zlib.crc32(text.encode()))})


def read(path: Path) -> Trajectories:
    """Return the trajectories in a file, as float32.

    Raises:
        StorageError: If the file is missing or damaged.
    """
    parts = [Trajectories.empty(), *read_blocks(path)]
    return Trajectories(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def read_blocks(path: Path) -> Iterator[Trajectories]:
    """Yield the trajectories in blocks of rows, as float32; each block is verified.

    Raises:
        StorageError: If the file is missing or damaged. After the last block also if a value was
            changed by another program, which wrote valid pages.
    """
    with _opened(path) as (file, properties):
        num_frames = properties["num_frames"]
        for table in _tables(file, properties["columns"]):
            rows = Trajectories(*map(_array, table.columns))
            yield (
                rows
                if num_frames is None
                else rows._replace(header=with_time(rows.header, num_frames))
            )


def inspect(path: Path) -> tuple[int, dict[str, Any]]:
    """Verify the whole file; return the number of rows and the inputs they were made from.

    Raises:
        StorageError: If the file is missing or damaged.
    """
    with _opened(path) as (file, properties):
        tables = _tables(file, properties["columns"])
        return sum(table.num_rows for table in tables), properties["source"]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[parquet.ParquetFile, dict[str, Any]]]:
    """Yield the file and its properties; raise StorageError for errors in the block."""
    try:
        with (
            path.open("rb") as stream,
            parquet.ParquetFile(stream, page_checksum_verification=True) as file,
        ):
            metadata = file.metadata.metadata or {}
            text = metadata[b"properties"]
            if file.schema_arrow != _SCHEMA or int(metadata[b"crc32"]) != zlib.crc32(text):
                raise ValueError("its footer is damaged")
            yield file, json.loads(text)
    except FileNotFoundError as error:
        raise StorageError(f"{path}: no such file; {_REMEDY}") from error
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        reason = str(error).partition("\n")[0]
        raise StorageError(f"{path}: damaged trajectory file ({reason}); {_REMEDY}") from error


def _tables(file: parquet.ParquetFile, checksums: list[int]) -> Iterator[pa.Table]:
    """Yield the row groups; raise ValueError unless the checksums of their columns agree."""
    actual = [0] * len(_SCHEMA)
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, use_threads=False)
        actual = _checksums(table, actual)
        yield table
    if actual != checksums:
        raise ValueError("its columns differ from their checksums")


def _checksums(table: pa.Table, before: list[int]) -> list[int]:
    """Return the CRC-32 of each column, given the checksums of the rows before the table."""
    return [
        zlib.crc32(_values(column).tobytes(), checksum)
        for column, checksum in zip(table.columns, before, strict=True)
    ]


def _values(column: pa.ChunkedArray) -> np.ndarray:
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False)


def _array(column: pa.ChunkedArray) -> np.ndarray:
    return _values(column).astype(np.float32, copy=False).reshape(-1, column.type.list_size)


def _feature_columns(first: str, last: str) -> tuple[int, int]:
    """Return begin and end, in `Trajectories.features`, of the arrays `first` to `last`."""
    names = [name for name in COLUMNS if name != "header"]  # the features leave out the header
    ends = np.cumsum([COLUMNS[name] for name in names]).tolist()
    return ends[names.index(first)] - COLUMNS[first], ends[names.index(last)]


class FisherReader:
    """Reader of trajectory files for `python -m fisher` (entry-point group `fisher.readers`)."""

    suffix = _SUFFIX
    # descriptor -> begin and end of its columns; MBH has both components (Wang & Schmid 2013)
    columns = {
        "all": _feature_columns("trajectory", "mbhy"),
        "trajectory": _feature_columns("trajectory", "trajectory"),
        "hog": _feature_columns("hog", "hog"),
        "hof": _feature_columns("hof", "hof"),
        "mbh": _feature_columns("mbhx", "mbhy"),
    }

    @staticmethod
    def item_name(path: Path) -> str | None:
        """Return the video id in the file name, or None if the name is truncated or changed."""
        video_id = urllib.parse.unquote(path.name.rpartition("-")[0])
        return video_id if path_of(path.parent, video_id) == path else None

    @staticmethod
    def read(path: Path) -> np.ndarray:
        """Return the features [n, 426]. Raise StorageError if the file is damaged."""
        return read(path).features
