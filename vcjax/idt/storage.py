"""Trajectories of one video in one file, which tells what it was made from.

The file is an npz. Rows come and go in blocks, so that a video may be longer than memory.
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

# Descriptors are in [0, 1].
_TYPES = {
    name: np.dtype(np.float32 if name in ("header", "trajectory") else np.float16)
    for name in COLUMNS
}
_NAME_LENGTH = 80  # characters of a video's id that its file's name shows
_BLOCK_ROWS = 4096  # read at a time
_SPOOL_SIZE = 8 << 20  # bytes of each array of a video being written that are kept in memory


class StorageError(ValueError):
    """A file of trajectories is damaged or is none; the message names it."""


class _Damaged(Exception):
    """Content is not what was written."""


class _Array(NamedTuple):
    """An array in a file, its values from where the file stands."""

    file: IO[bytes]
    dtype: np.dtype
    shape: tuple[int, ...]

    def blocks(self) -> Iterator[np.ndarray]:
        """All values, some rows at a time."""
        row = self.shape[1:]
        size = _BLOCK_ROWS * self.dtype.itemsize * int(np.prod(row))
        while size and (content := self.file.read(size)):
            yield np.frombuffer(content, self.dtype).reshape(-1, *row)


def path_of(directory: Path, video_id: str) -> Path:
    """Where the video's trajectories are: directly in `directory`, another file for another id."""
    encoded = video_id.encode("utf-8", "surrogatepass")
    shown = urllib.parse.quote_from_bytes(encoded, safe="").replace(".", "%2E")[:_NAME_LENGTH]
    return directory / f"{shown}-{hashlib.blake2b(encoded, digest_size=10).hexdigest()}.npz"


def write(path: Path, trajectories: Trajectories, *, source: Mapping[str, Any] = {}) -> None:
    """Writes trajectories, atomically, and what they were made from (anything JSON can hold)."""
    with _spools(path.parent) as spools:
        _append(spools, trajectories)
        _save(path, spools, source)


def write_frames(
    path: Path, frames: Iterable[Trajectories], *, source: Mapping[str, Any] = {}
) -> int:
    """Writes the rows of each frame of a video as they come; how many there are.

    Their last column is the middle frame, of which the file holds the fraction of the video.
    """
    num_frames = 0
    with _spools(path.parent) as spools:
        for rows in frames:
            num_frames += 1
            _append(spools, rows)
        _set_time(spools["header"], num_frames)
        return _save(path, spools, source)


@contextmanager
def _spools(directory: Path) -> Iterator[dict[str, IO[bytes]]]:
    """A file for each array; large ones have no name, and are gone with the process."""
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
    """Puts the arrays into the file; the number of rows."""
    arrays = {name: _spooled(name, spool) for name, spool in spools.items()}
    arrays["source"] = _of_bytes(json.dumps(source, sort_keys=True).encode())
    digest = _new_digest()
    with atomic.replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
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
    """Reads what `write` wrote, as float32. Raises StorageError for a damaged file."""
    return read_with_source(path)[0]


def read_with_source(path: Path) -> tuple[Trajectories, dict[str, Any]]:
    """Trajectories, and what they were made from. Raises StorageError for a damaged file."""
    with _opened(path) as archive:
        _, source = _check(archive)
        parts = [Trajectories.empty(), *_blocks(archive)]
    return Trajectories(*(np.concatenate(part) for part in zip(*parts, strict=True))), source


def read_blocks(path: Path) -> Iterator[Trajectories]:
    """Reads it some rows at a time, once all are found sound. Raises StorageError."""
    with _opened(path) as archive:
        _check(archive)
        yield from _blocks(archive)


def inspect(path: Path) -> tuple[int, dict[str, Any]]:
    """Number of rows, and what they were made from; all are read. Raises StorageError."""
    with _opened(path) as archive:
        return _check(archive)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            yield archive
    except FileNotFoundError as error:
        raise StorageError(f"{path}: no such file; run the stage idt for this video") from error
    except _Damaged as error:
        raise StorageError(f"{path}: damaged; its content is not what was written") from error
    except npz.UNREADABLE as error:
        raise StorageError(f"{path}: not a readable file of trajectories: {error}") from error


def _check(archive: zipfile.ZipFile) -> tuple[int, dict[str, Any]]:
    """Number of rows and source. Raises _Damaged if the content is not what the digest is of."""
    digest, shapes, text = _new_digest(), {}, b""
    for name in sorted((*COLUMNS, "source")):
        with _member(archive, name) as array:
            shapes[name] = array.shape
            for block in _hashed(name, array, digest):
                text += block.tobytes() if name == "source" else b""
    with _member(archive, "digest") as array:
        found = b"".join(block.tobytes() for block in array.blocks())
    num_rows, *_ = shapes["header"]
    expected = {name: (num_rows, width) for name, width in COLUMNS.items()}
    if found != digest.digest() or shapes != expected | {"source": shapes["source"]}:
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
    """The array's blocks, which the digest takes up."""
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
