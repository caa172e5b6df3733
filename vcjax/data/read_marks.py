"""Which videos are being read, in a file that outlives the process that reads them."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Marks(NamedTuple):
    """A file with a byte for each video: 1 while it is being read."""

    path: str
    num_videos: int

    @classmethod
    def in_file(cls, path: Path, num_videos: int) -> "Marks":
        """The file as it is, or a new one where there is none of this size."""
        if not path.exists() or path.stat().st_size != num_videos:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(num_videos))
        return cls(str(path), num_videos)

    @contextlib.contextmanager
    def reading(self, row: int) -> Iterator[None]:
        """Marks the video while the block runs."""
        marks = _mapped(self.path)
        marks[row] = 1
        try:
            yield
        finally:
            marks[row] = 0

    def take(self) -> set[int]:
        """Rows that are marked, which they are no longer afterwards."""
        marks = _mapped(self.path)
        rows = set(np.flatnonzero(marks).tolist())
        marks[:] = 0
        return rows


@functools.lru_cache(4)
def _mapped(path: str) -> np.memmap:
    return np.memmap(path, np.uint8, "r+")
