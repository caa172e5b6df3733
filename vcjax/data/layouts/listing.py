"""What official lists say of a video, before any file is looked at."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class ListError(ValueError):
    """An official list cannot be read; the message names the file, and the line if there is one."""


class Listed(NamedTuple):
    """A video of an official list."""

    video_id: str
    label: str  # class, "" where the list gives none
    split: str  # train, test, or "" where this split leaves the video out


class Layout(NamedTuple):
    """A data set as it is published: how its lists are read, and its files' names."""

    name: str
    # Lists among the files, number of the split -> videos by key; empty if none is its own.
    read: Callable[[Sequence[Path], int], Mapping[str, Listed]]
    # Keys under which a file may stand in the lists, the most specific first.
    keys: Callable[[Path], Sequence[str]]
    num_splits: int


def add(videos: dict[str, Listed], key: str, video: Listed, source: Path) -> None:
    """Enters `video`. Raises ListError where the lists contradict each other."""
    known = videos.setdefault(key, video)
    if known != video:
        raise ListError(
            f"{source}: {video.video_id} is {video.label!r} in {video.split!r}, but {known.label!r}"
            f" in {known.split!r} elsewhere; point --lists to the lists of one data set"
        )


def lines(path: Path) -> list[str]:
    """Lines of a text file, without what surrounds them, and without empty ones."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ListError(f"{path}: not a text file: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
