"""Checksums of what a run leaves, so that a flipped bit or half a file is noticed and not used."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vcjax.runtime import atomic

_OWN = "checksum"  # key of a JSON file's own


class DamagedError(ValueError):
    """A file is not as it was written; the message names it."""


def of_file(path: Path) -> str:
    """Size in bytes and BLAKE2b of a file's content."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
        return f"{file.tell()}:{digest.hexdigest()}"


def of_files(paths: Iterable[Path], base: Path) -> dict[str, str]:
    """`of_file` of each, by its path in the folder `base`."""
    return {path.relative_to(base).as_posix(): of_file(path) for path in sorted(paths)}


def missing(recorded: Mapping[str, str], base: Path) -> list[Path]:
    """The files of `recorded`, as `of_files` gives it, that are not in `base` any more."""
    return [base / name for name in recorded if not (base / name).is_file()]


def damaged(recorded: Mapping[str, str], base: Path) -> list[Path]:
    """The files of `recorded`, as `of_files` gives it, that are in `base` with other content."""
    there = [(base / name, wanted) for name, wanted in recorded.items()]
    return [path for path, wanted in there if path.is_file() and of_file(path) != wanted]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes `content` with its checksum, atomically."""
    atomic.write_text(path, as_json(content))


def as_json(content: Mapping[str, Any]) -> str:
    """`content` with its checksum, for `read_json`."""
    return json.dumps({**content, _OWN: _of_json(content)}, indent=1)


def read_json(path: Any) -> dict[str, Any]:
    """What `write_json` wrote. Raises DamagedError if it is anything else, FileNotFoundError."""
    try:
        content = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise DamagedError(f"{path}: damaged: {error}") from error
    # files of before there were checksums have none
    if content.pop(_OWN, None) not in (None, _of_json(content)):
        raise DamagedError(f"{path}: damaged; its content is not what was written")
    return content


def _of_json(content: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()
