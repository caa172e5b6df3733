"""Trajectories of one video in one file, which tells what it was made from."""

import hashlib
import json
import os
import urllib.parse
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vcjax.idt.trajectories import COLUMNS, Trajectories

_LONG = ("header", "trajectory")  # float32; descriptors, in [0, 1], are kept as float16
# What numpy and zipfile raise on damaged bytes; RuntimeError: flags that ask for a password.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
_NAME_LENGTH = 80  # characters of a video's id that its file's name shows


class StorageError(ValueError):
    """A file of trajectories is damaged or is none; the message names it."""


def path_of(directory: Path, video_id: str) -> Path:
    """Where the video's trajectories are: directly in `directory`, another file for another id."""
    encoded = video_id.encode("utf-8", "surrogatepass")
    shown = urllib.parse.quote_from_bytes(encoded, safe="").replace(".", "%2E")[:_NAME_LENGTH]
    return directory / f"{shown}-{hashlib.blake2b(encoded, digest_size=10).hexdigest()}.npz"


def write(path: Path, trajectories: Trajectories, *, source: Mapping[str, Any] = {}) -> None:
    """Writes trajectories, atomically, and what they were made from (anything JSON can hold)."""
    arrays = {
        name: array.astype(np.float32 if name in _LONG else np.float16)
        for name, array in trajectories._asdict().items()
    }
    arrays["source"] = np.frombuffer(json.dumps(source, sort_keys=True).encode(), np.uint8)
    arrays["digest"] = np.frombuffer(_digest(arrays), np.uint8)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> Trajectories:
    """Reads what `write` wrote, as float32. Raises StorageError for a damaged file."""
    return read_with_source(path)[0]


def read_with_source(path: Path) -> tuple[Trajectories, dict[str, Any]]:
    """Trajectories, and what they were made from. Raises StorageError for a damaged file."""
    try:
        # opened here: np.load leaves the file open when it cannot read it
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in (*COLUMNS, "source", "digest")}
    except FileNotFoundError as error:
        raise StorageError(f"{path}: no such file; run the stage idt for this video") from error
    except _UNREADABLE as error:
        raise StorageError(f"{path}: not a readable file of trajectories: {error}") from error
    digest = arrays.pop("digest").tobytes()
    widths = {name: arrays[name].shape[1:] for name in COLUMNS}
    if digest != _digest(arrays) or widths != {n: (w,) for n, w in COLUMNS.items()}:
        raise StorageError(f"{path}: damaged; its content is not what was written")
    source = json.loads(arrays.pop("source").tobytes())
    return Trajectories(**{n: a.astype(np.float32, copy=False) for n, a in arrays.items()}), source


def _digest(arrays: Mapping[str, np.ndarray]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).data if array.size else b"")
    return digest.digest()
