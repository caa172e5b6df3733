"""Data sets as they are published, joined with the files of a folder."""

import contextlib
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vcjax.data.layouts import hmdb51, kinetics, something, ucf101
from vcjax.data.layouts.listing import Layout, Listed, ListError
from vcjax.data.manifest import VIDEO_SUFFIXES
from vcjax.runtime import filesystem

LAYOUTS: tuple[Layout, ...] = (ucf101.LAYOUT, hmdb51.LAYOUT, kinetics.LAYOUT, something.LAYOUT)
FOLDER = "plain folder"
_LIST_SUFFIXES = (".txt", ".csv", ".json")
_SIDES = {"train": "train", "training": "train"} | dict.fromkeys(
    ("val", "validate", "validation", "test"), "test"
)


@dataclass(frozen=True)
class Found:
    """Videos of a folder, and how they differ from the lists."""

    layout: str
    videos: Mapping[Path, Listed]  # of the split
    missing: tuple[Listed, ...]  # of the split, without a file
    left_out: int  # files of videos that the split leaves out
    unlisted: tuple[Path, ...]  # files that are in no list
    extra: tuple[Path, ...]  # second files of a video


def find(root: Path, lists: Path | None, *, split: int | None) -> Found:
    """The data set in `root` by the official lists in `lists`, or among its own files.

    Of several data sets whose lists are there it is the one that knows the most files; without
    lists, a plain folder. `split` numbers the splits of UCF101 and HMDB51. Raises ListError.
    """
    for folder in (root, *([lists] if lists else [])):
        if not folder.is_dir():
            raise ListError(f"{folder}: no such folder")
    files = [path for path in _files(root) if path.suffix.lower() in VIDEO_SUFFIXES]
    if not files:
        raise ListError(f"{root}: no video files ({', '.join(VIDEO_SUFFIXES)}) in this folder")
    lists_at = lists or root
    candidates = [p for p in _files(lists_at) if p.suffix.lower() in _LIST_SUFFIXES]
    found = [
        _join(layout, videos, files)
        for layout in LAYOUTS
        if (layout.num_splits > 1 or not split) and (videos := layout.read(candidates, split or 1))
    ]
    best = max(found, key=lambda x: len(x.videos) + x.left_out, default=None)
    if best and (best.videos or best.left_out):
        return best
    if lists or split:
        names = [layout.name for layout in LAYOUTS if layout.num_splits > 1 or not split]
        seen = ", ".join(x.layout for x in found) or f"none of {', '.join(names)}"
        raise ListError(
            f"no list in {lists_at} names any of the {len(files)} videos in {root}; "
            f"lists there: {seen}"
        )
    return _folder(root, files)


def find_splits(root: Path, lists: Path | None) -> dict[str, Found]:
    """The data set as each of its official splits has it, by split1, ...; or as `find` alone by "".

    Splits whose lists are not there are left out. Raises ListError.
    """
    first = find(root, lists, split=None)
    layout = next((x for x in LAYOUTS if x.name == first.layout), None)
    if not layout or layout.num_splits == 1:
        return {"": first}
    found = {"split1": first}
    for number in range(2, layout.num_splits + 1):
        with contextlib.suppress(ListError):
            found[f"split{number}"] = find(root, lists, split=number)
    return found


def _files(folder: Path) -> list[Path]:
    """Files below `folder`, through links too, sorted; hidden ones are not looked at."""
    if filesystem.is_remote(folder):
        return [path for path in filesystem.files(folder) if "/." not in path.as_posix()]
    found, seen = [], set()
    for directory, folders, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(directory)
        if place in seen:  # links may go round in a circle
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(directory, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.is_file())


def _join(layout: Layout, listed: Mapping[str, Listed], files: Sequence[Path]) -> Found:
    videos: dict[str, Path] = {}
    known: dict[str, Listed] = {}
    unlisted, extra = [], []
    for path in sorted(files, key=_worse):
        video = next((listed[key] for key in layout.keys(path) if key in listed), None)
        if video is None:
            unlisted.append(path)
        elif video.video_id in videos:
            extra.append(path)
        else:
            videos[video.video_id], known[video.video_id] = path, video
    wanted = {video.video_id: video for video in listed.values() if video.split}
    return Found(
        layout.name,
        {path: known[name] for name, path in sorted(videos.items()) if name in wanted},
        tuple(video for name, video in sorted(wanted.items()) if name not in videos),
        len(videos.keys() - wanted.keys()),
        tuple(unlisted),
        tuple(extra),
    )


def _worse(path: Path) -> tuple[bool, bool, Path]:
    """Order of files of one video: not an empty one, and the replacement that Kinetics ships."""
    replaced = any(part.startswith("replacement") for part in path.parts)
    return not path.stat().st_size, not replaced, path


def _folder(root: Path, files: Sequence[Path]) -> Found:
    """The class is the parent folder; `train`, `val` and `test` folders at the top the split."""
    parts = {path: path.relative_to(root).parts for path in files}
    sides = [_SIDES.get(p[0].lower(), "") if len(p) > 1 else "" for p in parts.values()]
    divided = all(sides) and len(set(sides)) == 2
    videos = {}
    for (path, relative), side in zip(parts.items(), sides, strict=True):
        folders = relative[1:-1] if divided else relative[:-1]
        name = path.relative_to(root).with_suffix("").as_posix()
        videos[path] = Listed(name, folders[-1] if folders else "", side if divided else "")
    return Found(FOLDER, videos, (), 0, (), ())


def duplicates(paths: Iterable[Path]) -> list[tuple[Path, ...]]:
    """Files of equal content, each group once; empty files are none. Only equal sizes are read."""
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
