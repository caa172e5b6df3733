"""Record of the videos being read, in a file that outlives the reading process."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Marks(NamedTuple):
    """A file with one byte per video: 1 while the video is being read, else 0."""

    path: str

    @classmethod
    def in_file(cls, path: Path, num_videos: int) -> "Marks":
        """Return the marks in `path`; create or reset the file if its size is not `num_videos`."""
        if not path.exists() or path.stat().st_size != num_videos:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(num_videos))
        return cls(str(path))

    @contextlib.contextmanager
    def reading(self, row: int) -> Iterator[None]:
        """Mark the video of `row` as being read while the block runs."""
        marks = _memory_map(self.path)
        marks[row] = 1
        try:
            yield
        finally:
            marks[row] = 0

    def pop_in_flight(self) -> set[int]:
        """Return the marked rows and clear their marks."""
        marks = _memory_map(self.path)
        rows = set(np.flatnonzero(marks).tolist())
        marks[:] = 0
        return rows


@functools.lru_cache(4)
def _memory_map(path: str) -> np.memmap:
    return np.memmap(path, np.uint8, "r+")
