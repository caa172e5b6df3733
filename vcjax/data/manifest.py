"""The collection: videos known by a stable id, their labels, and which of them are held out.

Everything downstream looks a video up by `video_id`; rows of arrays follow the ids' sorted order,
so the order of the list that a user writes does not matter.
"""

import csv
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from vcjax.data import builders, shards, verification
from vcjax.runtime import filesystem

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg")
_RESERVED = ("video_id", "path", "split", "num_frames", "fps")
SPLITS = ("split1", "split2", "split3")  # columns: the official splits of UCF101 and HMDB51
INDEX = "index.tsv"  # of a folder of prepared shards
_SPLITS = ("train", "test")
_CONTROL = re.compile(r"[\x00-\x1f]")


class ManifestError(ValueError):
    """A manifest, or videos that it lists, cannot be used; the message names all of them."""


class Problem(NamedTuple):
    """A video that cannot be used, and why."""

    video_id: str
    path: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """Videos in the order of their ids; entry i of every field is video i."""

    video_ids: tuple[str, ...]
    paths: tuple[str, ...]  # absolute
    labels: Mapping[str, tuple[str, ...]]  # column -> value, "" where there is none
    split: tuple[str, ...]  # train or test, "" before `assign_split`
    num_frames: tuple[int, ...]  # 0 before `verify`

    def __len__(self) -> int:
        return len(self.video_ids)

    @property
    def own_labels(self) -> dict[str, tuple[str, ...]]:
        """The labels, but not the columns that say the sides of splits."""
        return {name: values for name, values in self.labels.items() if name not in SPLITS}

    def rows(self, split: str) -> Int[np.ndarray, " n"]:
        """Rows of the videos of `split`."""
        return np.flatnonzero(np.array(self.split, dtype=object) == split)

    def subset(self, split: str) -> "Manifest":
        """The videos of `split` alone."""
        return self.take(self.rows(split).tolist())

    def take(self, rows: Iterable[int]) -> "Manifest":
        """The videos of `rows`, in that order."""
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
    """The videos of a folder, prepared or not, or of a TSV/CSV with a `path` column, also remote.

    In a folder of a builder of tensorflow-datasets it is as `builders.rows` says. In any other
    every video file counts, its id is its path in the folder without suffix, and its
    parent folder is its label `class`. In a file, paths are relative to it; `video_id` (default:
    the path without suffix) and `split` (train or test) are optional; every other column is a
    label. Raises ManifestError.
    """
    return _read(filesystem.path_of(source))


def _read(source: Path) -> Manifest:
    if (source / INDEX).is_file():
        source = source / INDEX
        _check_index(source)
    elif builders.is_builder(source):
        return _from_rows(source, builders.rows(source))
    if source.is_dir():
        return _from_rows(source, _folder_rows(source))
    if not source.is_file():
        raise ManifestError(f"{source}: no such folder or file")
    return _from_rows(source, _table_rows(source))


def _folder_rows(folder: Path) -> list[dict[str, str]]:
    files = filesystem.files(folder) if filesystem.is_remote(folder) else sorted(folder.rglob("*"))
    found = [p for p in files if p.suffix.lower() in VIDEO_SUFFIXES]
    if not found:
        raise ManifestError(
            f"{folder}: no video files ({', '.join(VIDEO_SUFFIXES)}) in this folder"
        )
    rows = []
    for path in found:
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
    """The path without suffix, written in one way."""
    stem = os.path.splitext(path)[0]
    # the few that Path would change; it takes its time
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
            f"{source}: {len(duplicates)} video ids stand more than once: {_some(duplicates)}"
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


def verify(
    manifest: Manifest, *, on_missing: str, decode: bool, num_workers: int
) -> tuple[Manifest, list[Problem]]:
    """`manifest` with its frames counted, and the videos that cannot be used.

    With `on_missing` "skip" these are left out, with "error" a ManifestError names all of them.
    With `decode` every frame is decoded once, else only what the files declare is read.
    """
    if on_missing not in ("error", "skip"):
        raise ManifestError(f"data.on_missing is {on_missing!r}; use error or skip")
    probed = verification.probe_all(manifest.paths, decode=decode, num_workers=num_workers)
    problems = [
        Problem(manifest.video_ids[row], manifest.paths[row], result)
        for row, result in enumerate(probed)
        if isinstance(result, str)
    ]
    check_problems(problems, len(manifest), on_missing)
    counted = replace(manifest, num_frames=tuple(0 if isinstance(r, str) else r for r in probed))
    return counted.take(r for r, n in enumerate(probed) if not isinstance(n, str)), problems


def check_problems(problems: Sequence[Problem], num_videos: int, on_missing: str) -> None:
    """Raises ManifestError for any problem with "error", else if no video is left."""
    if problems and on_missing == "error":
        listed = "\n".join(f"  {p.video_id}: {p.reason}" for p in problems)
        raise ManifestError(
            f"{len(problems)} of {num_videos} videos cannot be used:\n{listed}\n"
            "Mend them, or leave them out with on_missing=skip (--config.data.on_missing=skip)"
        )
    if len(problems) == num_videos:
        raise ManifestError(f"none of {num_videos} videos can be used, first: {problems[0]}")


def assign_split(
    manifest: Manifest,
    *,
    group: str,
    holdout: float,
    seed: int,
    known: Mapping[str, str] | None = None,
) -> Manifest:
    """`manifest` with every video in train or test.

    A `split` column that is there stays. Else the values of the label column `group` are taken in
    an order that depends on them and the seed alone, and whole groups are held out until about the
    share `holdout` of the videos is; without a group, single videos. A group of which there are
    videos among the `known` (id -> train or test) stays on their side. Raises ManifestError.
    """
    if any(manifest.split):
        if not all(manifest.split):
            first = manifest.video_ids[manifest.split.index("")]
            raise ManifestError(f"some videos have a split and others none, first {first}")
        return manifest
    keys = manifest.labels[group] if group else manifest.video_ids
    if group and "" in keys:
        first = manifest.video_ids[keys.index("")]
        raise ManifestError(f"videos without a value of the group {group!r}, first {first}")
    sizes = Counter(keys)
    if len(sizes) < 2:
        raise ManifestError(
            f"all videos are of one {group or 'kind'}: nothing can be held out; give a `split` "
            "column, or another --config.data.group"
        )
    wanted = holdout * len(manifest)
    ids = zip(keys, manifest.video_ids, strict=True)
    sides = {key: known[video_id] for key, video_id in ids if known and video_id in known}
    held = {key for key, side in sides.items() if side == "test"}
    for key in sorted(sizes.keys() - sides.keys(), key=lambda key: _hash(key, seed)):
        now = sum(sizes[k] for k in held)
        # a group is held out when that brings the share nearer to the wanted one
        if len(held) < len(sizes) - 1 and abs(now + sizes[key] - wanted) <= abs(now - wanted):
            held.add(key)
    if not held:
        held.add(min(sizes, key=lambda key: (sizes[key], _hash(key, seed))))
    return replace(manifest, split=tuple("test" if key in held else "train" for key in keys))


def few_changes(known: Sequence[str], now: Sequence[str], *, max_share: float) -> bool:
    """Whether the ids that came and those that went are at most `max_share` of the known."""
    return len(set(known) ^ set(now)) <= max_share * len(known)


def limit(manifest: Manifest, num_videos: int, *, seed: int) -> Manifest:
    """`manifest` with `num_videos` of its training videos alone, all of them for 0 (Fig. 4).

    They are drawn by the seed and each one's id: fewer videos are among more. Raises ManifestError.
    """
    training = manifest.rows("train").tolist()
    if not 0 <= num_videos <= len(training):
        raise ManifestError(
            f"data.num_videos is {num_videos}, and there are {len(training)} videos to train on"
        )
    if not num_videos:
        return manifest
    drawn = sorted(training, key=lambda row: _hash(f"subset/{manifest.video_ids[row]}", seed))
    left_out = set(drawn[num_videos:])
    return manifest.take(row for row in range(len(manifest)) if row not in left_out)


def save(manifest: Manifest, path: Path) -> None:
    """Writes a TSV that `load` reads, atomically."""
    columns = ["video_id", "path", "split", "num_frames", *manifest.labels]
    rows = zip(
        manifest.video_ids,
        manifest.paths,
        manifest.split,
        map(str, manifest.num_frames),
        *manifest.labels.values(),
        strict=True,
    )
    write_table(path, columns, rows)


def save_index(manifest: Manifest, entries: Sequence[Mapping[str, Any]], out: Any) -> Manifest:
    """Writes the index of a prepared folder: of each video that is in a shard, where, and labels.

    `entries` are as many as videos. Returns what `read(out)` gives.
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
    # before the index, which nothing reads without; in the format of the program sha256sum
    filesystem.write_text(_index_checksum(out / INDEX), f"{_sha256(text.encode())}  {INDEX}\n")
    filesystem.write_text(out / INDEX, text)
    return read(out)


def remove_index(out: Any) -> None:
    """Leaves a prepared folder without an index, if it has one."""
    (out / INDEX).unlink(missing_ok=True)
    _index_checksum(out / INDEX).unlink(missing_ok=True)


def _check_index(index: Any) -> None:
    checksum = _index_checksum(index)
    if not checksum.is_file():
        return
    if checksum.read_bytes().partition(b" ")[0] != _sha256(index.read_bytes()).encode():
        raise ManifestError(
            f"{index}: damaged, or changed since it was prepared; prepare again, or remove "
            f"{checksum.name} if you changed it yourself"
        )


def _index_checksum(index: Any) -> Any:
    return index.with_name(f"{index.name}.sha256")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def load(path: Path) -> Manifest:
    """Reads what `save` wrote."""
    return read(path)


def save_problems(problems: Sequence[Problem], path: Path) -> None:
    """Writes `problems` as a TSV, atomically."""
    write_table(path, Problem._fields, problems)


def summary(manifest: Manifest, problems: Sequence[Problem]) -> str:
    """Counts by split and label column, and the list of what was left out."""
    split = Counter(manifest.split)
    lines = [f"{len(manifest)} videos: {split['train']} to train on, {split['test']} held out"]
    for column, values in manifest.labels.items():
        counts = Counter(values)
        shown = ", ".join(f"{value or 'none'} {n}" for value, n in counts.most_common(8))
        lines.append(f"  {column}: {len(counts)} values: {shown}{', ...' * (len(counts) > 8)}")
    if problems:
        lines.append(f"  left out {len(problems)} videos:")
        lines += [f"    {p.video_id}: {p.reason}" for p in problems]
    return "\n".join(lines)


def signature(source: str | Path) -> str:
    """Hash of what `source` lists and of the size and time of each video, missing or not."""
    manifest = read(source)
    digest = hashlib.sha256(repr((manifest.video_ids, manifest.labels, manifest.split)).encode())
    stamps: dict[str, str] = {}
    for path in manifest.paths:
        file = shards.file_of(path)
        if file not in stamps:
            try:
                stamps[file] = " ".join(map(str, filesystem.stamp(file)))
            except OSError:
                stamps[file] = "missing"
        digest.update(f"{path} {stamps[file]}\n".encode())
    return digest.hexdigest()[:16]


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Writes a TSV, atomically."""
    filesystem.write_text(path, _table(columns, rows))


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def _hash(key: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{key}".encode()).hexdigest()


def _some(values: Sequence[str]) -> str:
    return ", ".join(values[:10]) + (", ..." if len(values) > 10 else "")
