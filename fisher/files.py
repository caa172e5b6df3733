"""Descriptors in files: arrays of rows (.npy, .npz), or trajectories that vcjax.idt stored."""

import os
import urllib.parse
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

# What numpy and zipfile raise on damaged bytes; RuntimeError: flags that ask for a password.
UNREADABLE = (
    KeyError,
    ValueError,
    TypeError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
_SUFFIXES = (".npy", ".npz")
_TRAJECTORIES = {"header", "trajectory", "hog", "hof", "mbhx", "mbhy", "digest"}


def save_npz(path: Path, **arrays: Any) -> None:
    """Writes an npz without pickled objects, whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Source(NamedTuple):
    """Where the rows of one item are."""

    path: Path
    array: str  # of an npz; "": a npy, or trajectories


def find(inputs: Sequence[Path]) -> dict[str, Source]:
    """Where each item's rows are, by name, from files and folders of them.

    The name is that of the file, in a folder its path there, without suffix; each array of an npz
    that has several is an item, NAME/ARRAY; trajectories have their video's id. Raises ValueError
    where there are none, or two of one name.
    """
    found: dict[str, Source] = {}
    for path, name in (pair for given in inputs for pair in _files(given)):
        for item, source in _items(path, name):
            if item in found:
                raise ValueError(f"{path}: another item is named {item!r}: {found[item].path}")
            found[item] = source
    if not found:
        raise ValueError(f"no {' or '.join(_SUFFIXES)} files in {', '.join(map(str, inputs))}")
    return found


def read(source: Source) -> Float[np.ndarray, "n d"]:
    """The rows; those of a npy stay in the file. Raises ValueError naming the file."""
    path, array = source
    if path.suffix == ".npz" and not array:
        from vcjax.idt import storage

        return storage.read(path).features
    try:
        if array:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
                rows = file[array]
        else:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except UNREADABLE as error:
        raise ValueError(f"{path}: not a readable array: {error}") from error
    if rows.ndim != 2 or rows.dtype.kind not in "fiu":
        raise ValueError(f"{path}: rows are numbers [n, d], not {rows.dtype} {rows.shape}")
    return rows


def arrays(path: Path) -> list[str]:
    """Names of the arrays of an npz. Raises ValueError if it is none."""
    try:
        with zipfile.ZipFile(path) as file:
            return [member.removesuffix(".npy") for member in file.namelist()]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: not a readable npz: {error}") from error


def _files(given: Path) -> list[tuple[Path, str]]:
    if not given.is_dir():
        if given.suffix not in _SUFFIXES:
            raise ValueError(f"{given}: not a {' or '.join(_SUFFIXES)} file, nor a folder of them")
        return [(given, given.stem)]
    paths = sorted(path for path in given.rglob("*") if path.suffix in _SUFFIXES)
    return [(path, str(path.relative_to(given).with_suffix(""))) for path in paths]


def _items(path: Path, name: str) -> list[tuple[str, Source]]:
    if path.suffix == ".npy":
        return [(name, Source(path, ""))]
    found = arrays(path)
    if set(found) >= _TRAJECTORIES:
        return [(_video_id(path, name), Source(path, ""))]
    if len(found) == 1:
        return [(name, Source(path, found[0]))]
    return [(f"{name}/{array}", Source(path, array)) for array in found]


def _video_id(path: Path, name: str) -> str:
    """The id in the name of a file of trajectories, or `name` where that is cut or renamed."""
    from vcjax.idt import storage

    video_id = urllib.parse.unquote(path.stem.rpartition("-")[0])
    return video_id if storage.path_of(path.parent, video_id) == path else name
