"""Files that are whole or not there, also if the process that writes them is killed."""

import fcntl
import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when the block ends without an error.

    What processes have left that died while they wrote the same is removed.
    """
    _remove_leftovers(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed, or the process dies
            yield file
            file.flush()
            os.fsync(file.fileno())  # or power that fails leaves the new name and no content
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Puts `text`, as UTF-8, into the place of `path`."""
    with replacing(path) as file:
        file.write(text.encode())


def _remove_leftovers(path: Path) -> None:
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.*.tmp"):
        try:
            with leftover.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                leftover.unlink()
        except (BlockingIOError, FileNotFoundError):  # another process is at it
            pass
