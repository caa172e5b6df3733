"""Checksums of the files of a run, by which flipped bits and truncated files are detected."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vcjax.runtime import atomic

_OWN = "checksum"  # key of the checksum that a JSON file holds of itself


class DamagedError(ValueError):
    """The content of a file, named in the message, differs from the content that was written."""


def checksum(path: Path) -> str:
    """Return "SIZE:DIGEST" of a file: its size in bytes and the BLAKE2b hash of its content."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
        return f"{file.tell()}:{digest.hexdigest()}"


def checksums_of(paths: Iterable[Path], base: Path) -> dict[str, str]:
    """Return {path relative to `base`: checksum} for `paths`, all inside `base`."""
    return {path.relative_to(base).as_posix(): checksum(path) for path in sorted(paths)}


def missing(recorded: Mapping[str, str], base: Path) -> list[Path]:
    """Return the files of `recorded` (from `checksums_of`) that no longer exist in `base`."""
    return [base / name for name in recorded if not (base / name).is_file()]


def find_corrupt(recorded: Mapping[str, str], base: Path) -> list[Path]:
    """Return the files of `recorded` (from `checksums_of`) whose content in `base` has changed."""
    files = [(base / name, expected) for name, expected in recorded.items()]
    return [path for path, expected in files if path.is_file() and checksum(path) != expected]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` with its checksum to `path`, atomically."""
    atomic.write_text(path, as_json(content))


def as_json(content: Mapping[str, Any]) -> str:
    """Return `content` with its checksum as JSON text, in the format that `read_json` reads."""
    return json.dumps({**content, _OWN: _of_json(content)}, indent=1)


def read_json(path: Any) -> dict[str, Any]:
    """Return the content of a file written by `write_json`, without its checksum.

    Raises:
      DamagedError: if the file is not JSON or does not match its checksum.
      FileNotFoundError: if there is no file.
    """
    try:
        content = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise DamagedError(f"{path}: damaged: {error}") from error
    # Files of older versions have no checksum.
    if content.pop(_OWN, None) not in (None, _of_json(content)):
        raise DamagedError(f"{path}: damaged; its content does not match its checksum")
    return content


def _of_json(content: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()
