"""Official lists of public data sets, matched with the video files of a folder (Sec. 4.1)."""

import contextlib
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vcjax.data import folders
from vcjax.data.folders import ManifestError
from vcjax.data.layouts import hmdb51, kinetics, something, ucf101
from vcjax.data.layouts.listing import Layout, Listed, ListError

LAYOUTS: tuple[Layout, ...] = (ucf101.LAYOUT, hmdb51.LAYOUT, kinetics.LAYOUT, something.LAYOUT)
FOLDER = "plain folder"
_LIST_SUFFIXES = (".txt", ".csv", ".json")


@dataclass(frozen=True)
class MatchedVideos:
    """Videos of a folder that are in a split, and the differences between folder and lists."""

    layout: str  # name of the data set
    videos: Mapping[Path, Listed]  # videos of the split by file
    missing: tuple[Listed, ...]  # videos of the split without a file
    left_out: int  # number of files whose videos are listed but not in the split
    unlisted: tuple[Path, ...]  # files that are not in any list
    extra: tuple[Path, ...]  # additional files of a video
    skipped: str = ""  # line that counts the other entries of the folder by reason


def find(root: Path, lists: Path | None, *, split: int | None) -> MatchedVideos:
    """Recognize the data set in `root` by its official lists and match its videos with them.

    If several data sets have lists in the folder, the one whose lists match the most files is
    chosen. Without any lists the data set is a plain folder.

    Args:
      root: folder of the videos.
      lists: folder of the official lists (default: `root`).
      split: number of the split of UCF101 or HMDB51 (default: 1).

    Raises:
      ManifestError: if a folder is missing, or `root` is not a valid folder of videos.
      ListError: if a list is invalid, or with `lists` or `split` no list matches.
    """
    return _find(root, folders.walk(root), lists, split)


def _find(
    root: Path, listing: folders.Listing, lists: Path | None, split: int | None
) -> MatchedVideos:
    files, skipped = listing
    if not files:
        raise ManifestError(folders.no_videos(root, skipped))
    lists_at = lists or root
    candidates = folders.walk(lists_at, _LIST_SUFFIXES).files
    matches = [
        _match(layout, videos, files)
        for layout in LAYOUTS
        if (layout.num_splits > 1 or not split) and (videos := layout.read(candidates, split or 1))
    ]
    best = max(matches, key=lambda x: len(x.videos) + x.left_out, default=None)
    if best and (best.videos or best.left_out):
        return replace(best, skipped=skipped)
    if lists or split:
        names = [layout.name for layout in LAYOUTS if layout.num_splits > 1 or not split]
        present = ", ".join(x.layout for x in matches) or f"none of {', '.join(names)}"
        raise ListError(
            f"no list in {lists_at} names any of the {len(files)} videos in {root}; "
            f"lists there: {present}; pass the folder of the official lists by --lists"
        )
    columns = folders.columns(root, files)
    rows = zip(columns["video_id"], columns["class"], columns["split"], strict=True)
    plain = dict(zip(files, itertools.starmap(Listed, rows), strict=True))
    return MatchedVideos(FOLDER, plain, (), 0, (), (), skipped)


def find_splits(root: Path, lists: Path | None) -> dict[str, MatchedVideos]:
    """Return the videos of every official split, by split1, split2 and split3.

    A data set without numbered splits has the single key "". Splits without lists are omitted.

    Raises:
      ManifestError, ListError: as in `find`.
    """
    listing = folders.walk(root)
    first = _find(root, listing, lists, None)
    layout = next((x for x in LAYOUTS if x.name == first.layout), None)
    if not layout or layout.num_splits == 1:
        return {"": first}
    splits = {"split1": first}
    for number in range(2, layout.num_splits + 1):
        with contextlib.suppress(ListError):
            splits[f"split{number}"] = _find(root, listing, lists, number)
    return splits


def _match(layout: Layout, listed: Mapping[str, Listed], files: Sequence[Path]) -> MatchedVideos:
    """Match files with listed videos by the keys that the layout derives from a file name."""
    videos: dict[str, Path] = {}
    entries: dict[str, Listed] = {}
    unlisted, extra = [], []
    for path in sorted(files, key=_preference):
        video = next((listed[key] for key in layout.keys(path) if key in listed), None)
        if video is None:
            unlisted.append(path)
        elif video.video_id in videos:
            extra.append(path)
        else:
            videos[video.video_id], entries[video.video_id] = path, video
    in_split = {video.video_id: video for video in listed.values() if video.split}
    return MatchedVideos(
        layout.name,
        {path: entries[name] for name, path in sorted(videos.items()) if name in in_split},
        tuple(video for name, video in sorted(in_split.items()) if name not in videos),
        len(videos.keys() - in_split.keys()),
        tuple(unlisted),
        tuple(extra),
    )


def _preference(path: Path) -> tuple[bool, bool, Path]:
    """Return a sort key: non-empty files first, then replacement files shipped with Kinetics."""
    replaced = any(part.startswith("replacement") for part in path.parts)
    return not path.stat().st_size, not replaced, path


def duplicates(paths: Iterable[Path]) -> list[tuple[Path, ...]]:
    """Return groups of non-empty files with equal content; read only files of equal size."""
    groups: dict[tuple[int, str], list[Path]] = defaultdict(list)
    sizes: dict[int, list[Path]] = defaultdict(list)
    for path in paths:
        sizes[path.stat().st_size].append(path)
    for size, alike in sizes.items():
        if size and len(alike) > 1:
            for path in alike:
                with path.open("rb") as file:
                    groups[size, hashlib.file_digest(file, "sha256").hexdigest()].append(path)
    return [tuple(group) for group in groups.values() if len(group) > 1]
