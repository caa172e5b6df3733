"""Something-Something v2 (Goyal et al. 2017): JSON lists of training, validation and test videos.

The class is the template, without the brackets around its slots; files are ID.webm. Held out is
the validation split; the test split has no labels and is left out.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vcjax.data.layouts import listing
from vcjax.data.layouts.listing import Layout, Listed, ListError

# How the names end, of something-something-v2-train.json as of train.json.
_SIDES = {"train": "train", "validation": "test", "test": ""}


def read(lists: Sequence[Path], split: int) -> dict[str, Listed]:
    """Videos by id."""
    videos: dict[str, Listed] = {}
    for source in lists:
        side = _SIDES.get(source.stem.rpartition("-")[2])
        if source.suffix.lower() == ".json" and side is not None:
            for row in _rows(source):
                if side and "template" not in row:  # a list of something else
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
    """The one key of a file."""
    return (path.stem,)


LAYOUT = Layout("Something-Something v2", read, keys, num_splits=1)
