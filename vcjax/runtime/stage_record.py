"""The record of a stage, `STAGE/stage.json`: its settings, inputs and files with their checksums.

The previous record is kept beside it, in case the record is damaged.
"""

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vcjax.runtime import checksums

log = logging.getLogger(__name__)

RECORD, PREVIOUS = "stage.json", "stage.previous.json"


class StageError(ValueError):
    """A stage cannot run; the message has the reason and the remedy."""


def read(directory: Path) -> dict[str, Any]:
    """Return the record of the stage in `directory`, or {} if the stage has never started.

    If the record is missing or damaged, the previous record is returned, if there is one.

    Raises:
      StageError: if the record is damaged and there is no intact previous record.
    """
    problems = []
    for path in (directory / RECORD, directory / PREVIOUS):
        try:
            return checksums.read_json(path)
        except FileNotFoundError:
            continue
        except checksums.DamagedError as error:
            log.warning("%s; using the previous record", error)
            problems.append(path)
    if problems:
        raise StageError(f"{problems[0]}: damaged; remove {directory} to redo the stage")
    return {}


def damaged(workdir: Path, record: dict[str, Any]) -> list[Path]:
    """Return the files of `record` that are missing or damaged, as paths in `workdir`.

    Missing checkpoints are not included, since users may remove them to save space.
    """
    files = record.get("files", {})
    missing = [p for p in checksums.missing(files, workdir) if "checkpoints" not in p.parts]
    return missing + checksums.find_corrupt(files, workdir)


def check(directory: Path) -> None:
    """Raise StageError if files that the stage in `directory` wrote are missing or damaged."""
    if bad := damaged(directory.parent, read(directory)):
        raise StageError(f"{some(bad)} is missing or damaged; run the stage {directory.name} again")


def steps(directory: Path) -> list[int]:
    """Return the training steps of all checkpoints of the stage in `directory`, in order."""
    found = directory.glob("**/checkpoints/[0-9]*")
    return sorted(int(path.name) for path in found if path.name.isdecimal())


def without_checkpoints(directory: Path, record: dict[str, Any]) -> bool:
    """Return True if the stage wrote checkpoints and none of them exists any more."""
    return any("/checkpoints/" in name for name in record.get("files", ())) and not steps(directory)


def reopen(workdir: Path, name: str) -> None:
    """Mark the stage `name` as incomplete, so that it runs again and verifies its files."""
    record = read(workdir / name)
    if record.get("complete"):
        write(workdir / name, record | {"complete": False})


def seconds(workdir: Path, names: Sequence[str]) -> dict[str, float]:
    """Return {name: duration in seconds} for each complete stage of `names`."""
    records = {name: read(workdir / name) for name in names}
    return {name: r["seconds"] for name, r in records.items() if r.get("complete")}


def is_complete(directory: Path) -> bool:
    """Return True if the stage in `directory` is complete, and its record is intact."""
    try:
        return bool(read(directory).get("complete"))
    except StageError:
        return False


def some(paths: Sequence[Path]) -> str:
    """Return the first of `paths` as text, with the number of the others."""
    return f"{paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


def write(directory: Path, record: dict[str, Any]) -> None:
    """Write the record, and keep the old one, if it is intact, as the previous record."""
    with contextlib.suppress(FileNotFoundError, checksums.DamagedError):
        checksums.read_json(directory / RECORD)
        os.replace(directory / RECORD, directory / PREVIOUS)
    checksums.write_json(directory / RECORD, record)
