"""Lists of UCF101 (Soomro et al. 2012): trainlistNN.txt and testlistNN.txt, three splits."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vcjax.data.layouts import listing
from vcjax.data.layouts.listing import Layout, Listed, ListError


def read(lists: Sequence[Path], split: int) -> dict[str, Listed]:
    """Return the videos of `split` by key."""
    videos: dict[str, Listed] = {}
    sides = {f"trainlist{split:02d}.txt": "train", f"testlist{split:02d}.txt": "test"}
    for source in lists:
        if source.name not in sides:
            continue
        for line in listing.lines(source):
            name = PurePosixPath(line.split()[0])  # in training lists followed by the class number
            if len(name.parts) != 2 or name.suffix != ".avi":
                raise ListError(f"{source}: {line!r} is not CLASS/VIDEO.avi")
            video = Listed(name.stem, name.parts[0], sides[source.name])
            listing.add(videos, _key(name.stem), video, source)
    return videos


def keys(path: Path) -> tuple[str, ...]:
    """Return the single key of a file, its stem in lower case."""
    return (_key(path.stem),)


def _key(stem: str) -> str:
    # Copies of the data set differ: v_HandStandPushups as in the lists, or v_HandstandPushups.
    return stem.casefold()


LAYOUT = Layout("UCF101", read, keys, num_splits=3)
