"""Lists of Kinetics-400, 600 and 700 (Carreira et al. 2017 to 2019): CSV files of three splits.

Files are named ID.mp4 or ID_000010_000020.mp4 (start and end in seconds), in any folder. The
validation split is the held-out set. The test split is left out, since most of it has no labels.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from vcjax.data.layouts import listing
from vcjax.data.layouts.listing import Layout, Listed, ListError

_SIDES = {"train": "train", "val": "test", "validate": "test", "validation": "test", "test": ""}
_NAME = re.compile(r"(.{11})(?:_(\d+)_(\d+))?")
_COLUMNS = ("youtube_id", "time_start", "time_end", "split")


def read(lists: Sequence[Path], split: int) -> dict[str, Listed]:
    """Return the videos by id and times, and also by id alone if one video has this id."""
    videos: dict[str, Listed] = {}
    for source in lists:
        if source.suffix.lower() == ".csv":
            for key, video in _rows(source):
                listing.add(videos, key, video, source)
    shared = Counter(key[:11] for key in videos)
    return videos | {key[:11]: v for key, v in videos.items() if shared[key[:11]] == 1}


def _rows(source: Path) -> Iterator[tuple[str, Listed]]:
    with source.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.DictReader(file)
        if not set(_COLUMNS) <= set(reader.fieldnames or ()):
            return
        for row in reader:
            try:
                start, end = (int(float(row[column])) for column in ("time_start", "time_end"))
                side = _SIDES[row["split"]]
            except (KeyError, TypeError, ValueError) as error:
                raise ListError(f"{source}, line {reader.line_num}: {error!r} in {row}") from error
            key = _key(row["youtube_id"], start, end)
            yield key, Listed(key, row.get("label") or "", side)


def keys(path: Path) -> tuple[str, ...]:
    """Return the keys of a file: id and times if the name contains them, then the id alone."""
    match = _NAME.fullmatch(path.stem)
    if not match:
        return ()
    video, start, end = match.groups()
    return (_key(video, int(start), int(end)), video) if start else (video,)


def _key(video: str, start: int, end: int) -> str:
    return f"{video}_{start:06d}_{end:06d}"


LAYOUT = Layout("Kinetics", read, keys, num_splits=1)
