"""The collection of videos: ids, paths, labels and split.

A video is identified by its `video_id`. Rows of arrays follow the sorted ids, so results do not
depend on the order of the input table.
"""

import csv
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from vcjax.data import shards, tfds_videos
from vcjax.runtime import filesystem

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg")
_RESERVED = ("video_id", "path", "split", "num_frames", "fps")
SPLITS = ("split1", "split2", "split3")  # columns of the official splits of UCF101 and HMDB51
INDEX = "index.tsv"  # manifest of a folder of prepared shards
_SPLITS = ("train", "test")
_CONTROL = re.compile(r"[\x00-\x1f]")


class ManifestError(ValueError):
    """A manifest or some of its videos are invalid; the message names them."""


class Problem(NamedTuple):
    """A video that cannot be used, and the reason."""

    video_id: str
    path: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """Videos in the order of their ids; entry i of every field belongs to video i."""

    video_ids: tuple[str, ...]
    paths: tuple[str, ...]  # absolute
    labels: Mapping[str, tuple[str, ...]]  # column -> value, "" if unlabeled
    split: tuple[str, ...]  # train or test, "" before `assign_split`
    num_frames: tuple[int, ...]  # 0 before `verify`

    def __len__(self) -> int:
        return len(self.video_ids)

    @property
    def own_labels(self) -> dict[str, tuple[str, ...]]:
        """Label columns without the columns in SPLITS."""
        return {name: values for name, values in self.labels.items() if name not in SPLITS}

    def rows(self, split: str) -> Int[np.ndarray, " n"]:
        """Return the row numbers of the videos of `split`, "train" or "test"."""
        return np.flatnonzero(np.array(self.split, dtype=object) == split)

    def subset(self, split: str) -> "Manifest":
        """Return a manifest of the videos of `split`, "train" or "test"."""
        return self.take(self.rows(split).tolist())

    def take(self, rows: Iterable[int]) -> "Manifest":
        """Return a manifest of the videos of `rows`, in that order."""
        rows = list(rows)
        pick = lambda values: tuple(values[row] for row in rows)  # noqa: E731
        return Manifest(
            pick(self.video_ids),
            pick(self.paths),
            {column: pick(values) for column, values in self.labels.items()},
            pick(self.split),
            pick(self.num_frames),
        )


def read(source: str | Path) -> Manifest:
    """Return the videos of `source`, which may be local or remote.

    Args:
        source: One of
            - a folder of shards written by `vcjax data prepare`;
            - a folder prepared by tensorflow-datasets, read by `tfds_videos.rows`;
            - any other folder: every video file in it, with its relative path without suffix as id
              and its parent folder as the label `class`;
            - a TSV or CSV with the column `path`, relative to the table. Optional columns are
              `video_id` (default: the path without suffix), `split` (train or test) and
              `num_frames`; every other column except `fps` is a label.

    Raises:
        ManifestError: If `source` does not exist, contains no videos or is malformed.
    """
    return _read(filesystem.path_of(source))


def _read(source: Path) -> Manifest:
    if (source / INDEX).is_file():
        source = source / INDEX
        _check_index(source)
    elif tfds_videos.is_builder(source):
        return _from_rows(source, tfds_videos.rows(source))
    if source.is_dir():
        return _from_rows(source, _folder_rows(source))
    if not source.is_file():
        raise ManifestError(f"{source}: no such folder or file")
    return _from_rows(source, _table_rows(source))


def _folder_rows(folder: Path) -> list[dict[str, str]]:
    files = filesystem.files(folder) if filesystem.is_remote(folder) else sorted(folder.rglob("*"))
    paths = [p for p in files if p.suffix.lower() in VIDEO_SUFFIXES]
    if not paths:
        raise ManifestError(
            f"{folder}: no video files ({', '.join(VIDEO_SUFFIXES)}) in this folder"
        )
    rows = []
    for path in paths:
        relative = PurePosixPath(path.as_posix().removeprefix(folder.as_posix()).lstrip("/"))
        row = {"path": str(path), "video_id": str(relative.with_suffix(""))}
        rows.append(row | ({"class": relative.parts[-2]} if len(relative.parts) > 1 else {}))
    return rows


def _table_rows(source: Path) -> list[dict[str, str]]:
    delimiter = "," if source.suffix.lower() == ".csv" else "\t"
    try:
        with source.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            rows, columns = list(reader), reader.fieldnames or []
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{source}: not a readable table: {error}") from error
    if "path" not in columns:
        raise ManifestError(
            f"{source}: no `path` column among {list(columns)}; columns are separated by "
            f"{'commas' if delimiter == ',' else 'tabs'}"
        )
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise ManifestError(f"{source}, line {line}: not {len(columns)} columns")
        if not row["path"].strip():
            raise ManifestError(f"{source}, line {line}: no path")
    if not rows:
        raise ManifestError(f"{source}: no videos")
    base = str(source.parent if filesystem.is_remote(source) else source.absolute().parent)
    for row in rows:
        row["video_id"] = row.get("video_id") or _id_of(row["path"])
        row["path"] = _joined(base, row["path"])
    return rows


def _joined(base: str, path: str) -> str:
    return path if filesystem.is_remote(path) else os.path.join(base, path)


def _id_of(path: str) -> str:
    """Return the normalized path without its suffix."""
    stem = os.path.splitext(path)[0]
    # Path is slow, so it is used only for paths that it changes
    return str(Path(stem)) if "//" in stem or "./" in stem or stem.endswith("/") else stem


def _from_rows(source: Path, rows: list[dict[str, str]]) -> Manifest:
    for row in rows:
        if _CONTROL.search(row["video_id"]) or _CONTROL.search(row["path"]):
            raise ManifestError(f"{source}: control characters in {row['video_id']!r}")
        if not (row.get("num_frames") or "0").isdecimal():
            raise ManifestError(
                f"{source}: num_frames of {row['video_id']} is {row['num_frames']!r}, not a number"
            )
        if row.get("split", "") not in ("", *_SPLITS):
            raise ManifestError(
                f"{source}: split of {row['video_id']} is {row['split']!r}; use train or test"
            )
    duplicates = [i for i, n in Counter(row["video_id"] for row in rows).items() if n > 1]
    if duplicates:
        raise ManifestError(
            f"{source}: {len(duplicates)} video ids occur more than once: {_some(duplicates)}"
        )
    rows = sorted(rows, key=lambda row: row["video_id"])
    columns = sorted({column for row in rows for column in row} - set(_RESERVED))
    return Manifest(
        tuple(row["video_id"] for row in rows),
        tuple(filesystem.absolute(row["path"]) for row in rows),
        {column: tuple(row.get(column, "") for row in rows) for column in columns},
        tuple(row.get("split", "") for row in rows),
        tuple(int(row.get("num_frames") or 0) for row in rows),
    )


def save(manifest: Manifest, path: Path) -> None:
    """Write a manifest as a TSV for `load`, atomically.

    Paths of videos in the folder of the TSV are relative, so that the folder can be moved.
    """
    base = os.path.abspath(path.parent) + os.sep
    columns = ["video_id", "path", "split", "num_frames", *manifest.labels]
    rows = zip(
        manifest.video_ids,
        (video.removeprefix(base) for video in manifest.paths),
        manifest.split,
        map(str, manifest.num_frames),
        *manifest.labels.values(),
        strict=True,
    )
    write_table(path, columns, rows)


def save_index(manifest: Manifest, entries: Sequence[Mapping[str, Any]], out: Any) -> Manifest:
    """Write the index of a prepared folder, and return `read(out)`.

    Args:
        manifest: Videos that were prepared.
        entries: One entry per video: `problem`, or else `shard`, `position`, `num_frames` and
            `fps`. Videos with a problem are left out.
        out: The folder.
    """
    columns = ["video_id", "path", "split", "num_frames", "fps", *manifest.labels]
    rows = []
    for row, entry in enumerate(entries):
        if not entry["problem"]:
            place = shards.Reference(entry["shard"], entry["position"], entry["num_frames"])
            labels = [values[row] for values in manifest.labels.values()]
            values = (manifest.split[row], place.num_frames, entry["fps"])
            rows.append([manifest.video_ids[row], str(place), *map(str, values), *labels])
    text = _table(columns, rows)
    # The index is written after its checksum, so that no index is read without one. The format is
    # the one of the program sha256sum.
    filesystem.write_text(_index_checksum(out / INDEX), f"{_sha256(text.encode())}  {INDEX}\n")
    filesystem.write_text(out / INDEX, text)
    return read(out)


def remove_index(out: Any) -> None:
    """Remove the index and its checksum from a prepared folder, if they exist."""
    (out / INDEX).unlink(missing_ok=True)
    _index_checksum(out / INDEX).unlink(missing_ok=True)


def _check_index(index: Any) -> None:
    checksum = _index_checksum(index)
    if not checksum.is_file():
        return
    if checksum.read_bytes().partition(b" ")[0] != _sha256(index.read_bytes()).encode():
        raise ManifestError(
            f"{index}: damaged, or changed since it was prepared; run `vcjax data prepare` "
            f"again, or remove {checksum.name} if you edited the index"
        )


def _index_checksum(index: Any) -> Any:
    return index.with_name(f"{index.name}.sha256")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def load(path: Path) -> Manifest:
    """Return the manifest that `save` wrote to `path`."""
    return read(path)


def save_problems(problems: Sequence[Problem], path: Path) -> None:
    """Write `problems` as a TSV, atomically."""
    write_table(path, Problem._fields, problems)


def summary(manifest: Manifest, problems: Sequence[Problem]) -> str:
    """Return a text with counts by split and label, and the list of videos left out."""
    split = Counter(manifest.split)
    lines = [f"{len(manifest)} videos: {split['train']} for training, {split['test']} held out"]
    for column, values in manifest.labels.items():
        counts = Counter(values)
        shown = ", ".join(f"{value or 'none'} {n}" for value, n in counts.most_common(8))
        lines.append(f"  {column}: {len(counts)} values: {shown}{', ...' * (len(counts) > 8)}")
    if problems:
        lines.append(f"  left out {len(problems)} videos:")
        lines += [f"    {p.video_id}: {p.reason}" for p in problems]
    return "\n".join(lines)


def signature(source: str | Path) -> str:
    """Return a hash of the manifest `source` and of size and time of each file, if it exists."""
    manifest = read(source)
    digest = hashlib.sha256(repr((manifest.video_ids, manifest.labels, manifest.split)).encode())
    stamps: dict[str, str] = {}
    for path in manifest.paths:
        file = shards.file_of(path)
        if file not in stamps:
            try:
                stamps[file] = " ".join(map(str, filesystem.file_version(file)))
            except OSError:
                stamps[file] = "missing"
        digest.update(f"{path} {stamps[file]}\n".encode())
    return digest.hexdigest()[:16]


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a TSV with a header of `columns`, atomically."""
    filesystem.write_text(path, _table(columns, rows))


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def _some(values: Sequence[str]) -> str:
    return ", ".join(values[:10]) + (", ..." if len(values) > 10 else "")
