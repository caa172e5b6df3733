"""Lists of HMDB51 (Kuehne et al. 2011): CLASS_test_splitN.txt, 51 files for each of 3 splits.

A line is a file name and a mark: 1 for training, 2 for test, 0 for a video outside the split. Most
lines end in a space, so they are stripped before they are split.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from vcjax.data.layouts import listing
from vcjax.data.layouts.listing import Layout, Listed, ListError

_SIDES = {"0": "", "1": "train", "2": "test"}


def read(lists: Sequence[Path], split: int) -> dict[str, Listed]:
    """Return all videos by key, including videos outside the split."""
    videos: dict[str, Listed] = {}
    for source in lists:
        match = re.fullmatch(rf"(\w+)_test_split{split}\.txt", source.name)
        if not match:
            continue
        for line in listing.lines(source):
            name, _, mark = line.rpartition(" ")
            if mark not in _SIDES or not name.rstrip().endswith(".avi"):
                raise ListError(f"{source}: {line!r} is not VIDEO.avi and 0, 1 or 2")
            stem = name.rstrip().removesuffix(".avi")
            listing.add(videos, stem, Listed(stem, match[1], _SIDES[mark]), source)
    return videos


def keys(path: Path) -> tuple[str, ...]:
    """Return the single key of a file, its stem, which is unique across classes."""
    return (path.stem,)


LAYOUT = Layout("HMDB51", read, keys, num_splits=3)
