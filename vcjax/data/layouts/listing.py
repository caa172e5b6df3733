"""Entries of official lists, independent of the files in a folder."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class ListError(ValueError):
    """Error of an official list; the message has the file, and the line if possible."""


class Listed(NamedTuple):
    """A video in an official list."""

    video_id: str
    label: str  # class, "" if the list has none
    split: str  # train, test, or "" if the video is not in the split


class Layout(NamedTuple):
    """Format of a public data set: how to read its lists and match its file names."""

    name: str
    # Files that may be lists, number of the split -> videos by key; empty without such lists.
    read: Callable[[Sequence[Path], int], Mapping[str, Listed]]
    # Path of a video file -> keys that may be in the lists, the most specific first.
    keys: Callable[[Path], Sequence[str]]
    num_splits: int


def add(videos: dict[str, Listed], key: str, video: Listed, source: Path) -> None:
    """Add `video`, read from the list `source`, to `videos`.

    Raises:
      ListError: if `videos` has a different entry under `key`.
    """
    listed = videos.setdefault(key, video)
    if listed != video:
        raise ListError(
            f"{source}: {video.video_id} has class {video.label!r} and split {video.split!r}, but "
            f"class {listed.label!r} and split {listed.split!r} in another line or list; "
            "point --lists to the lists of one data set"
        )


def lines(path: Path) -> list[str]:
    """Return the non-empty lines of a text file, stripped of surrounding space."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ListError(f"{path}: not a text file: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
