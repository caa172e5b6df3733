"""UCF101 (Soomro et al. 2012): trainlist01.txt, testlist01.txt, ..., three splits."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vcjax.data.layouts import listing
from vcjax.data.layouts.listing import Layout, Listed, ListError


def read(lists: Sequence[Path], split: int) -> dict[str, Listed]:
    """Videos of `split` by key."""
    videos: dict[str, Listed] = {}
    sides = {f"trainlist{split:02d}.txt": "train", f"testlist{split:02d}.txt": "test"}
    for source in lists:
        if source.name not in sides:
            continue
        for line in listing.lines(source):
            name = PurePosixPath(line.split()[0])  # the training lists add the class's number
            if len(name.parts) != 2 or name.suffix != ".avi":
                raise ListError(f"{source}: {line!r} is not CLASS/VIDEO.avi")
            video = Listed(name.stem, name.parts[0], sides[source.name])
            listing.add(videos, _key(name.stem), video, source)
    return videos


def keys(path: Path) -> tuple[str, ...]:
    """The one key of a file."""
    return (_key(path.stem),)


def _key(stem: str) -> str:
    # v_HandStandPushups in the lists and most copies, v_HandstandPushups in others
    return stem.casefold()


LAYOUT = Layout("UCF101", read, keys, num_splits=3)
