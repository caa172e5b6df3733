"""Lists of Something-Something v2 (Goyal et al. 2017): JSON files of three splits.

The class is the template without the brackets around its slots. Files are named ID.webm. The
validation split is the held-out set; the test split has no labels and is left out.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vcjax.data.layouts import listing
from vcjax.data.layouts.listing import Layout, Listed, ListError

# By the end of the file name: something-something-v2-train.json or train.json.
_SIDES = {"train": "train", "validation": "test", "test": ""}


def read(lists: Sequence[Path], split: int) -> dict[str, Listed]:
    """Return the videos by id."""
    videos: dict[str, Listed] = {}
    for source in lists:
        side = _SIDES.get(source.stem.rpartition("-")[2])
        if source.suffix.lower() == ".json" and side is not None:
            for row in _rows(source):
                if side and "template" not in row:  # a list of another data set
                    break
                label = str(row.get("template", "")).replace("[", "").replace("]", "")
                video = Listed(str(row["id"]), label, side)
                listing.add(videos, video.video_id, video, source)
    return videos


def _rows(source: Path) -> Iterator[dict[str, Any]]:
    try:
        rows = json.loads(source.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ListError(f"{source}: not JSON: {error}") from error
    if isinstance(rows, list):
        yield from (row for row in rows if isinstance(row, dict) and "id" in row)


def keys(path: Path) -> tuple[str, ...]:
    """Return the single key of a file, its stem."""
    return (path.stem,)


LAYOUT = Layout("Something-Something v2", read, keys, num_splits=1)
