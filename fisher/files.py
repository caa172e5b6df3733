"""Files of descriptors: arrays of rows (.npy, .npz) and formats of other packages.

A package adds a file format with an entry point of the group `fisher.readers` that refers to a
`Reader`.
"""

import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from fisher.rows import Columns

# Exceptions of NumPy and zipfile for damaged files; RuntimeError: a flag demands a password.
UNREADABLE = (
    KeyError,
    ValueError,
    TypeError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
_READERS = "fisher.readers"  # entry-point group
_SUFFIXES = (".npy", ".npz")


@runtime_checkable
class Reader(Protocol):
    """A reader of files of another format, one item per file."""

    suffix: str  # end of the names of such files
    columns: Mapping[str, tuple[int, int]]  # name -> begin and end (exclusive) in a row

    def item_name(self, path: Path) -> str | None:
        """Return the item that the file name states, or None to name the item after its path."""

    def read(self, path: Path) -> Float[np.ndarray, "n d"]:
        """Return the rows. Raise ValueError if the file is damaged."""


class Source(NamedTuple):
    """Location of the rows of one item."""

    path: Path
    array: str = ""  # name of the array in an npz; "" if the file is an npy or has a reader
    reader: Reader | None = None


def save_npz(path: str | Path, **arrays: Any) -> None:
    """Write an npz file without pickled objects, atomically."""
    path = path_of(path)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def path_of(path: str | Path) -> Path:
    """Return the path. Raise ValueError if it is another object."""
    if not isinstance(path, str | Path):
        raise ValueError(f"path must be a path, not a {type(path).__name__}")
    return Path(path)


def find(inputs: Sequence[Path]) -> dict[str, Source]:
    """Return the sources of all items in the files and folders `inputs`, by item name.

    An item is named after its file without suffix; within a folder, after the path relative to the
    folder. Each array of an npz with several arrays is an item NAME/ARRAY. A file of an installed
    reader, recognized by its suffix, is one item, which the reader may name.

    Raises:
      ValueError: if there are no items, or if two items have the same name.
    """
    readers = {reader.suffix: reader for reader in _readers()}
    sources: dict[str, Source] = {}
    for path, name in (file for given in inputs for file in _files(given, tuple(readers))):
        for item, source in _items(path, name, readers):
            if item in sources:
                raise ValueError(f"{path}: another item is named {item!r}: {sources[item].path}")
            sources[item] = source
    if not sources:
        raise ValueError(f"no {' or '.join(_SUFFIXES)} files in {', '.join(map(str, inputs))}")
    return sources


def read(source: Source) -> Float[np.ndarray, "n d"]:
    """Return the rows of an item; an npy file is memory-mapped.

    Raises:
      ValueError: if the file is damaged or is not an array of numbers [n, d]; names the file.
    """
    path = source.path
    if source.reader is not None:
        return source.reader.read(path)
    try:
        if source.array:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
                rows = file[source.array]
        else:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except UNREADABLE as error:
        raise ValueError(f"{path}: not a readable array: {error}") from error
    if rows.ndim != 2 or rows.dtype.kind not in "fiu":
        where = f"{path}: array {source.array!r}" if source.array else f"{path}"
        raise ValueError(
            f"{where}: rows must be numbers [n, d], not {rows.dtype} {rows.shape}; a file of "
            f"another format needs an installed package with an entry point of the group {_READERS}"
        )
    return rows


def array_names(path: Path) -> list[str]:
    """Return the names of the arrays of an npz file.

    Raises:
      ValueError: if the file is not a readable npz.
    """
    try:
        with zipfile.ZipFile(path) as file:
            return [member.removesuffix(".npy") for member in file.namelist()]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: not a readable npz: {error}") from error


def named_columns() -> dict[str, Columns]:
    """Return the columns that installed readers name, such as the descriptors of a trajectory."""
    return {
        name: Columns(begin, end)
        for reader in _readers()
        for name, (begin, end) in reader.columns.items()
    }


def _readers() -> list[Reader]:
    readers = []
    for entry_point in metadata.entry_points(group=_READERS):
        try:
            readers.append(entry_point.load())
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"cannot load the reader {entry_point.value} (entry point {entry_point.name!r} of "
                f"{_READERS}): {error}; reinstall its package"
            ) from error
    return readers


def _files(path: Path, suffixes: tuple[str, ...]) -> list[tuple[Path, str]]:
    """Return the path and the name of the file, or of each file in the folder, `path`."""
    suffixes = (*_SUFFIXES, *suffixes)
    if not path.is_dir():
        if not path.name.endswith(suffixes):
            raise ValueError(f"{path}: neither a {' or '.join(_SUFFIXES)} file nor a folder")
        return [(path, path.stem)]
    files = sorted(file for file in path.rglob("*") if file.name.endswith(suffixes))
    return [(file, str(file.relative_to(path).with_suffix(""))) for file in files]


def _items(path: Path, name: str, readers: Mapping[str, Reader]) -> list[tuple[str, Source]]:
    for suffix, reader in readers.items():
        if path.name.endswith(suffix):
            return [(reader.item_name(path) or name, Source(path, reader=reader))]
    if path.suffix == ".npy":
        return [(name, Source(path))]
    names = array_names(path)
    if len(names) == 1:
        return [(name, Source(path, names[0]))]
    return [(f"{name}/{array}", Source(path, array)) for array in names]
