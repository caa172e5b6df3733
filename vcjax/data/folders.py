"""The video files of a folder, as every command lists them.

Links to folders are followed, each folder is read once, and hidden and system files are left out.
Whatever is left out is counted by reason.
"""

import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vcjax.runtime import filesystem

# containers from which PyAV decodes and seeks exactly
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".mkv", ".mk3d", ".webm", ".avi"),
    *(".divx", ".flv", ".wmv", ".asf", ".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".vob", ".ts"),
    *(".mts", ".m2ts", ".m2t", ".mxf", ".dv", ".ogv", ".gif", ".apng", ".y4m", ".rm", ".rmvb"),
)
# names of folders and values of the column `split`, in lower case
SIDES = dict.fromkeys(("train", "training"), "train") | dict.fromkeys(
    ("val", "valid", "validate", "validation", "dev", "eval", "evaluation", "test", "testing"),
    "test",
)
_SYSTEM = {"__macosx", "$recycle.bin", "system volume information", "lost+found", "@eadir"}
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # in a table: control, and not UTF-8
_SHOWN = 5  # names or suffixes in a message


class ManifestError(ValueError):
    """A list of videos or some of its videos are invalid; the message names them."""


class Listing(NamedTuple):
    """Files of a folder, and a line that counts its other entries by reason, "" without any."""

    files: list[Any]  # absolute Path or UPath, sorted
    left_out: str


def walk(folder: Any, suffixes: Sequence[str] = VIDEO_SUFFIXES) -> Listing:
    """Return the files of `folder`, local or remote, that end in one of `suffixes` in any case.

    Raises:
        ManifestError: If there is no such folder, or if a file name has control characters or is
            not UTF-8.
    """
    folder = _absolute(folder)
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no such folder")
    reasons: Counter[str] = Counter()
    every = _remote(folder, reasons) if filesystem.is_remote(folder) else _local(folder, reasons)
    files, others = [], Counter[str]()
    for path in every:
        suffix = path.suffix.lower()
        if suffix in suffixes:
            files.append(path)
        else:
            others[suffix or "none"] += 1
    files.sort(key=str)
    check_names(str(folder), map(str, files))
    return Listing(files, _line(reasons, others))


def _local(folder: Path, reasons: Counter[str]) -> list[Path]:
    """Return all regular files; real folders are read before links, which may lead to them."""
    files, folders = [], [folder]
    links: list[Path] = []
    visited = {_identity(parent) for parent in folder.resolve().parents}  # links may lead back
    while folders or links:
        place = folders.pop() if folders else links.pop(0)
        try:
            identity, entries = _identity(place), sorted(os.scandir(place), key=lambda e: e.name)
        except OSError:
            reasons["unreadable folders"] += 1
            continue
        if identity in visited:
            reasons["links to folders listed before"] += 1
            continue
        visited.add(identity)
        for entry in entries:
            link, path = entry.is_symlink(), Path(entry.path)
            if is_hidden(entry.name):
                reasons["hidden"] += 1
            elif path.is_dir() if link else entry.is_dir():
                (links if link else folders).append(path)
            elif path.is_file() if link else entry.is_file():
                files.append(path)
            else:
                is_dangling = link and not os.path.exists(path)
                reasons["dangling links" if is_dangling else "not regular files"] += 1
    return files


def _remote(folder: Any, reasons: Counter[str]) -> list[Any]:
    files = filesystem.files(folder)
    shown = [path for path in files if not any(map(is_hidden, parts(path, folder)))]
    if len(shown) < len(files):
        reasons["hidden"] = len(files) - len(shown)
    return shown


def _absolute(folder: Any) -> Any:
    return folder if filesystem.is_remote(folder) else Path(os.path.abspath(folder))


def parts(path: Any, folder: Any) -> tuple[str, ...]:
    """Return the names of the folders from `folder` down to the file `path`, and its name."""
    return tuple(path.as_posix().removeprefix(folder.as_posix()).lstrip("/").split("/"))


def is_hidden(name: str) -> bool:
    """Return True if a file or folder is hidden or made by an operating system."""
    return name.startswith(".") or name.lower() in _SYSTEM


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _line(reasons: Counter[str], others: Counter[str]) -> str:
    counts = [f"{count} {reason}" for reason, count in sorted(reasons.items())]
    if others:
        common = [f"{_printable(suffix)} {count}" for suffix, count in others.most_common()]
        counts.append(f"{others.total()} with other suffixes ({some(common)})")
    return f"left out: {', '.join(counts)}" if counts else ""


def _remedy() -> str:
    if sys.getfilesystemencoding() != "utf-8":  # then valid names, too, are not read as UTF-8
        return f"Python reads names as {sys.getfilesystemencoding()} here; set PYTHONUTF8=1"
    return "rename these files (from Latin-1: convmv -f latin1 -t utf8 -r --notest FOLDER)"


def check_names(source: str, names: Iterable[str]) -> None:
    """Check that a table can contain `names`, the ids or paths of `source`.

    Raises:
        ManifestError: If a name has control characters or is not UTF-8.
    """
    if bad := [name for name in names if _UNWRITABLE.search(name)]:
        raise ManifestError(
            f"{_printable(source)}: {len(bad)} names are not UTF-8 or have control characters, "
            f"first {_printable(bad[0])}; {_remedy()}"
        )


def check_ids(source: str, ids: Sequence[str], paths: Sequence[str]) -> None:
    """Check that each of `ids` belongs to one of `paths`.

    Raises:
        ManifestError: If an id occurs more than once.
    """
    if len(set(ids)) < len(ids):
        repeated = [name for name, count in Counter(ids).items() if count > 1]
        first = [path for name, path in zip(ids, paths, strict=True) if name == repeated[0]]
        raise ManifestError(
            f"{source}: {len(repeated)} video ids occur more than once: {some(repeated)}; files "
            f"of the first: {' and '.join(first[:2])}; remove all but one file of each, or use a "
            "table with distinct values of video_id"
        )


def no_videos(folder: Any, left_out: str) -> str:
    """Return the message for a folder without videos."""
    return (
        f"{filesystem.absolute(str(folder))}: no video files in this folder"
        f"{'; ' * bool(left_out)}{left_out}; suffixes of videos: {' '.join(VIDEO_SUFFIXES)}"
    )


def some(values: Sequence[str]) -> str:
    """Return the first few of `values`, separated by commas, and the number of the rest."""
    more = f", and {len(values) - _SHOWN:,} more" if len(values) > _SHOWN else ""
    return ", ".join(values[:_SHOWN]) + more


def _printable(text: str) -> str:
    """Return `text` with escapes in the place of control characters and undecodable bytes."""
    return _UNWRITABLE.sub(lambda match: ascii(match[0])[1:-1].replace("\\udc", "\\x"), text)


def sides(folders: Iterable[Sequence[str]]) -> list[str]:
    """Return the split of each video, train or test, from the folders that it is in.

    The outermost folder with a name in SIDES decides. The split is "" without such a folder, and
    also if no video is held out.
    """
    split = [SIDES.get(_side_folder(names).lower(), "") for names in folders]
    return split if "test" in split else [""] * len(split)


def _side_folder(folders: Sequence[str]) -> str:
    return next((name for name in folders if name.lower() in SIDES), "")


def columns(folder: Any, files: Sequence[Any]) -> dict[str, list[str]]:
    """Return the columns path, video_id, class and split of the videos `files` in `folder`.

    The id is the relative path without suffix. The class is the parent folder, without the folder
    that decides the split.
    """
    folder = _absolute(folder)
    folders = [parts(path, folder)[:-1] for path in files]
    split = sides(folders)
    classes = []
    for names, side in zip(folders, split, strict=True):
        kept = list(names)
        if side:
            kept.remove(_side_folder(names))
        classes.append(kept[-1] if kept else "")
    stems = [os.path.splitext(path.name)[0] for path in files]
    ids = ["/".join((*names, stem)) for names, stem in zip(folders, stems, strict=True)]
    paths = list(map(str, files))
    check_ids(str(folder), ids, paths)
    return {"path": paths, "video_id": ids, "class": classes, "split": split}
