"""The previous result of a stage that is redone, in `STAGE.previous` until the new is complete."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vcjax.runtime import stage_record
from vcjax.runtime.stage_record import PREVIOUS, RECORD, StageError


def previous_of(directory: Path) -> Path:
    """Return the folder of the previous result of the stage in `directory`."""
    return directory.with_name(f"{directory.name}.previous")


def set_part_aside(path: Path) -> None:
    """Move a file or folder of a stage, if it exists, to the folder of its previous result.

    It is removed if it was set aside before: the earlier one belongs to a complete result.
    """
    previous = previous_of(path.parent)
    if not path.exists():
        return
    if stage_record.is_complete(previous):
        remove(previous)
    if not (previous / path.name).exists():
        previous.mkdir(exist_ok=True)
        os.replace(path, previous / path.name)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def read(directory: Path) -> dict[str, Any]:
    """Return the record of the result that was set aside, or {} if there is none."""
    try:
        return stage_record.read(previous_of(directory))
    except StageError:
        return {}


def _supersedes(directory: Path) -> bool:
    """Return True if the stage's files replace the result that was set aside before."""
    return stage_record.is_complete(directory) or not stage_record.is_complete(
        previous_of(directory)
    )


def set_aside(directory: Path, entries: Sequence[str] | None) -> None:
    """Move the result of the stage in `directory` to `previous_of`.

    An incomplete result is removed if a complete one was set aside before.

    Args:
      directory: folder of the stage.
      entries: entries of the folder to move, besides the records; None moves the whole folder.
    """
    previous = previous_of(directory)
    parts = (*(entries or ()), PREVIOUS, RECORD)
    if not _supersedes(directory):
        if entries is None:
            remove(directory)
            return
        for part in parts:
            (directory / part).unlink(missing_ok=True)
        return
    remove(previous)
    if entries is None:
        os.replace(directory, previous)
        return
    previous.mkdir()
    for part in parts:
        if (directory / part).exists():
            os.replace(directory / part, previous / part)


def copy_aside(directory: Path) -> None:
    """Copy the result of the stage to `previous_of`, as hard links where the disk has them."""
    if not _supersedes(directory):
        return
    previous = previous_of(directory)
    partial = previous.with_name(f"{previous.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(directory, partial, copy_function=_link_or_copy)
    remove(previous)
    os.replace(partial, previous)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def take_back(directory: Path, *, is_whole: bool) -> None:
    """Undo `set_aside`, of the whole folder or of entries of it.

    A complete result in `directory` is set aside in turn if the whole folder is.
    """
    previous = previous_of(directory)
    if not is_whole:
        for path in sorted(previous.iterdir(), key=lambda path: path.name == RECORD):
            os.replace(path, directory / path.name)
        previous.rmdir()
        return
    swapped = directory.with_name(f"{directory.name}.swapped")
    shutil.rmtree(swapped, ignore_errors=True)
    if directory.exists():
        os.replace(directory, swapped)
    os.replace(previous, directory)
    if stage_record.is_complete(swapped):
        os.replace(swapped, previous)
    else:
        shutil.rmtree(swapped, ignore_errors=True)


def remove(directory: Path) -> None:
    """Remove a folder, its records first: a record never describes removed files."""
    for name in (RECORD, PREVIOUS):
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)
