"""Trajectory files: one npz per video, with a checksum and the inputs it was made from.

Rows are written and read in blocks, so that the trajectories of a video may exceed memory.
"""

import hashlib
import io
import json
import tempfile
import urllib.parse
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from vcjax.idt.trajectories import COLUMNS, Trajectories, with_time
from vcjax.runtime import atomic, npz

# Descriptors lie in [0, 1], where float16 is precise enough.
_TYPES = {
    name: np.dtype(np.float32 if name in ("header", "trajectory") else np.float16)
    for name in COLUMNS
}
_NAME_LENGTH = 80  # characters of the encoded video id that its file name contains
_BLOCK_ROWS = 4096  # rows per read
_REMEDY = "extract the video with the stage idt or `vcjax idt extract`"
_SPOOL_SIZE = 8 << 20  # bytes of each array kept in memory while a video is written


class StorageError(ValueError):
    """A trajectory file is missing, damaged, or of another format; the message names it."""


class _Damaged(Exception):
    """The content of a trajectory file does not match its digest or layout."""


class _Array(NamedTuple):
    """An array in an open file, whose values begin at the current position of the file."""

    file: IO[bytes]
    dtype: np.dtype
    shape: tuple[int, ...]

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all values in blocks of rows."""
        row = self.shape[1:]
        size = _BLOCK_ROWS * self.dtype.itemsize * int(np.prod(row))
        while size and (content := self.file.read(size)):
            yield np.frombuffer(content, self.dtype).reshape(-1, *row)


def path_of(directory: Path, video_id: str) -> Path:
    """Return the path of a video's trajectories in `directory`; each id has a file of its own."""
    encoded = video_id.encode("utf-8", "surrogatepass")
    shown = urllib.parse.quote_from_bytes(encoded, safe="").replace(".", "%2E")[:_NAME_LENGTH]
    return directory / f"{shown}-{hashlib.blake2b(encoded, digest_size=10).hexdigest()}.npz"


def write(path: Path, trajectories: Trajectories, *, source: Mapping[str, Any] = {}) -> None:
    """Write the trajectories of a video atomically.

    `source` describes the inputs that they were made from, as any mapping that JSON can hold.
    """
    with _spools(path.parent) as spools:
        _append(spools, trajectories)
        _save(path, spools, source)


def write_frames(
    path: Path, frames: Iterable[Trajectories], *, source: Mapping[str, Any] = {}
) -> int:
    """Write the trajectories of each frame as they arrive and return the number of rows.

    The last header column of `frames` is the middle frame of a trajectory; the file contains it as
    a fraction of the video.
    """
    with writer(path, source=source) as rows_of:
        for rows in frames:
            rows_of.append(rows)
    return rows_of.num_rows


class Writer:
    """Writer of a trajectory file, frame by frame.

    Attributes:
        num_rows: Number of rows written so far.
    """

    def __init__(self, spools: Mapping[str, IO[bytes]]) -> None:
        self._spools, self.num_frames, self.num_rows = spools, 0, 0

    def append(self, rows: Trajectories) -> None:
        """Add the trajectories that end on the next frame."""
        _append(self._spools, rows)
        self.num_frames += 1
        self.num_rows += rows.num_rows


@contextmanager
def writer(path: Path, *, source: Mapping[str, Any] = {}) -> Iterator[Writer]:
    """Yield a writer; the file appears when the block ends without an error.

    The last header column of the rows is as for `write_frames`.
    """
    with _spools(path.parent) as spools:
        frames = Writer(spools)
        yield frames
        _set_time(spools["header"], frames.num_frames)
        _save(path, spools, source)


@contextmanager
def _spools(directory: Path) -> Iterator[dict[str, IO[bytes]]]:
    """Yield a temporary file for each array.

    Large arrays move from memory to unnamed files in `directory`, which disappear with the process.
    """
    with ExitStack() as stack:
        spools = [tempfile.SpooledTemporaryFile(_SPOOL_SIZE, dir=str(directory)) for _ in COLUMNS]
        yield {name: stack.enter_context(f) for name, f in zip(COLUMNS, spools, strict=True)}


def _append(spools: Mapping[str, IO[bytes]], rows: Trajectories) -> None:
    for name, array in rows._asdict().items():
        spools[name].write(array.astype(_TYPES[name]).tobytes())


def _set_time(spool: IO[bytes], num_frames: int) -> None:
    spool.seek(0)
    for block in _Array(spool, _TYPES["header"], (-1, COLUMNS["header"])).blocks():
        spool.seek(-block.nbytes, io.SEEK_CUR)
        spool.write(with_time(block, num_frames).tobytes())


def _save(path: Path, spools: Mapping[str, IO[bytes]], source: Mapping[str, Any]) -> int:
    """Write the arrays to the file and return the number of rows."""
    arrays = {name: _spooled(name, spool) for name, spool in spools.items()}
    arrays["source"] = _of_bytes(json.dumps(source, sort_keys=True).encode())
    digest = _new_digest()
    with atomic.atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in sorted(arrays.items()):
            _put(archive, name, array, digest)
        _put(archive, "digest", _of_bytes(digest.digest()), _new_digest())
    return arrays["header"].shape[0]


def _spooled(name: str, spool: IO[bytes]) -> _Array:
    width = COLUMNS[name]
    num_rows = spool.tell() // (width * _TYPES[name].itemsize)
    spool.seek(0)
    return _Array(spool, _TYPES[name], (num_rows, width))


def _of_bytes(content: bytes) -> _Array:
    return _Array(io.BytesIO(content), np.dtype(np.uint8), (len(content),))


def _put(archive: zipfile.ZipFile, name: str, array: _Array, digest: Any) -> None:
    layout = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        npy.write_array_header_1_0(member, layout)
        for block in _hashed(name, array, digest):
            member.write(block.tobytes())


def read(path: Path) -> Trajectories:
    """Return the trajectories in a file, as float32.

    Raises:
        StorageError: If the file is missing or damaged.
    """
    return read_with_source(path)[0]


def read_with_source(path: Path) -> tuple[Trajectories, dict[str, Any]]:
    """Return the trajectories in a file, as float32, and the inputs they were made from.

    Raises:
        StorageError: If the file is missing or damaged.
    """
    with _opened(path) as archive:
        _, source = _check(archive)
        parts = [Trajectories.empty(), *_blocks(archive)]
    return Trajectories(*(np.concatenate(part) for part in zip(*parts, strict=True))), source


def read_blocks(path: Path) -> Iterator[Trajectories]:
    """Yield the trajectories in blocks of rows, as float32, after verifying the whole file.

    Raises:
        StorageError: If the file is missing or damaged.
    """
    with _opened(path) as archive:
        _check(archive)
        yield from _blocks(archive)


def inspect(path: Path) -> tuple[int, dict[str, Any]]:
    """Verify the whole file; return the number of rows and the inputs they were made from.

    Raises:
        StorageError: If the file is missing or damaged.
    """
    with _opened(path) as archive:
        return _check(archive)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            yield archive
    except FileNotFoundError as error:
        raise StorageError(f"{path}: no such file; {_REMEDY}") from error
    except _Damaged as error:
        raise StorageError(f"{path}: damaged: content differs from checksum; {_REMEDY}") from error
    except npz.UNREADABLE as error:
        raise StorageError(f"{path}: unreadable trajectory file ({error}); {_REMEDY}") from error


def _check(archive: zipfile.ZipFile) -> tuple[int, dict[str, Any]]:
    """Return the number of rows and the source; raise _Damaged unless the digest matches."""
    digest, shapes, text = _new_digest(), {}, b""
    for name in sorted((*COLUMNS, "source")):
        with _member(archive, name) as array:
            shapes[name] = array.shape
            for block in _hashed(name, array, digest):
                text += block.tobytes() if name == "source" else b""
    with _member(archive, "digest") as array:
        stored_digest = b"".join(block.tobytes() for block in array.blocks())
    num_rows, *_ = shapes["header"]
    expected = {name: (num_rows, width) for name, width in COLUMNS.items()}
    if stored_digest != digest.digest() or shapes != expected | {"source": shapes["source"]}:
        raise _Damaged
    return num_rows, json.loads(text)


def _blocks(archive: zipfile.ZipFile) -> Iterator[Trajectories]:
    with ExitStack() as stack:
        arrays = [stack.enter_context(_member(archive, name)) for name in COLUMNS]
        for blocks in zip(*(array.blocks() for array in arrays), strict=True):
            yield Trajectories(*(block.astype(np.float32, copy=False) for block in blocks))


@contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[_Array]:
    with archive.open(f"{name}.npy") as file:
        if npy.read_magic(file) != (1, 0):
            raise _Damaged
        shape, _, dtype = npy.read_array_header_1_0(file)
        yield _Array(file, dtype, shape)


def _hashed(name: str, array: _Array, digest: Any) -> Iterator[np.ndarray]:
    """Yield the blocks of the array after adding each to the digest."""
    digest.update(f"{name} {array.dtype} {array.shape};".encode())
    for block in array.blocks():
        digest.update(block)
        yield block


def _new_digest() -> Any:
    return hashlib.blake2b(digest_size=16)


def _feature_columns(first: str, last: str) -> tuple[int, int]:
    """Return begin and end, in `Trajectories.features`, of the arrays `first` to `last`."""
    names = [name for name in COLUMNS if name != "header"]  # the features leave out the header
    ends = np.cumsum([COLUMNS[name] for name in names]).tolist()
    return ends[names.index(first)] - COLUMNS[first], ends[names.index(last)]


class FisherReader:
    """Reader of trajectory files for `python -m fisher` (entry-point group `fisher.readers`)."""

    # descriptor -> begin and end of its columns; MBH has both components (Wang & Schmid 2013)
    columns = {
        "all": _feature_columns("trajectory", "mbhy"),
        "trajectory": _feature_columns("trajectory", "trajectory"),
        "hog": _feature_columns("hog", "hog"),
        "hof": _feature_columns("hof", "hof"),
        "mbh": _feature_columns("mbhx", "mbhy"),
    }

    @staticmethod
    def recognizes(array_names: Iterable[str]) -> bool:
        """Return True if an npz with these arrays is a file of trajectories."""
        return {*COLUMNS, "digest"} <= set(array_names)

    @staticmethod
    def item_name(path: Path) -> str | None:
        """Return the video id in the file name, or None if the name is truncated or changed."""
        video_id = urllib.parse.unquote(path.stem.rpartition("-")[0])
        return video_id if path_of(path.parent, video_id) == path else None

    @staticmethod
    def read(path: Path) -> np.ndarray:
        """Return the features [n, 426]. Raise StorageError if the file is damaged."""
        return read(path).features
