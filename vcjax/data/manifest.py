"""The collection of videos: ids, paths, labels and split.

A video is identified by its `video_id`. Rows of arrays follow the sorted ids, so results do not
depend on the order of the input table.
"""

import csv
import functools
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from vcjax.data import folders, shards, tables, tfds_videos
from vcjax.data.folders import ManifestError as ManifestError
from vcjax.data.tables import SPLITS as SPLITS
from vcjax.runtime import checks, filesystem

log = logging.getLogger(__name__)

INDEX = "index.tsv"  # manifest of a folder of prepared shards
_MISSING = {"nan", "NaN", "None", "<NA>"}  # labels that NumPy, Python and pandas write for none
_SHOWN = 10  # problems in a summary


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


@checks.arguments
def read(source: str | Path) -> Manifest:
    """Return the videos of `source`, which may be local or remote.

    Files that are left out and other remarks are logged in one line each.

    Args:
        source: One of
            - a folder of shards written by `vcjax data prepare`;
            - a folder prepared by tensorflow-datasets, read by `tfds_videos.rows`;
            - any other folder, listed by `folders.walk` and `folders.columns`;
            - a TSV or CSV with the column `path`, relative to the table. Optional columns are
              `video_id` (default: the path without suffix), `split` (train or test; default: by
              the folders in the paths, as for a folder) and `num_frames`; every other column
              except `fps` is a label.

    Raises:
        ManifestError: If `source` does not exist, cannot be read, has no videos or is malformed.
    """
    try:
        manifest, remarks = _read(filesystem.path_of(source))
    except PermissionError as error:
        reason = filesystem.NO_PERMISSION if error.filename else error  # of an object store
        raise ManifestError(f"{error.filename or source}: {reason}") from error
    for remark in remarks:
        _report(str(source), remark)
    return manifest


@functools.cache
def _report(source: str, remark: str) -> None:
    """Log a remark once; a run reads its videos several times."""
    log.warning("%s: %s", source, remark)


def _read(source: Any) -> tuple[Manifest, list[str]]:
    remarks: list[str] = []
    if (source / INDEX).is_file():
        source = source / INDEX
        _check_index(source)
    if tfds_videos.is_builder(source):
        rows = tfds_videos.rows(source)
        names = {name for row in rows for name in row}
        columns = {name: [row.get(name, "") for row in rows] for name in names}
        columns["path"] = list(map(filesystem.absolute, columns["path"]))
    elif source.is_dir():
        files, left_out = folders.walk(source)
        if not files:
            raise ManifestError(folders.no_videos(source, left_out))
        columns, remarks = folders.columns(source, files), [left_out] if left_out else []
    elif source.suffix.lower() in folders.VIDEO_SUFFIXES:
        raise ManifestError(f"{source}: not a table; use the folder of this file in its place")
    elif not source.is_file():
        raise ManifestError(f"{filesystem.absolute(str(source))}: no such folder or file")
    else:
        columns, remarks = tables.read(source)
        if "split" not in columns:
            columns["split"] = folders.sides(_folders(columns["path"]))
    return _from_columns(source, columns), remarks


def _folders(paths: Sequence[str]) -> list[list[str]]:
    """Return the folders of each path below the folder that all paths share."""
    parts = [path.split("/")[:-1] for path in paths]
    depth = len(os.path.commonprefix([min(parts), max(parts)]))
    return [names[depth:] for names in parts]


def _from_columns(source: Any, columns: Mapping[str, list[str]]) -> Manifest:
    paths, ids, split = columns["path"], columns["video_id"], columns["split"]
    folders.check_names(str(source), paths)
    folders.check_ids(str(source), ids, paths)
    if unknown := set(split) - {"", "train", "test"}:
        row = next(row for row, side in enumerate(split) if side in unknown)
        raise ManifestError(
            f"{source}: split of {paths[row]} is {split[row]!r}; use train or test "
            f"({', '.join(folders.SIDES)} are understood)"
        )
    lengths = columns.get("num_frames") or [""] * len(paths)
    lengths = ["0" if n in {"", *_MISSING} else n.removesuffix(".0") for n in lengths]
    for path, length in zip(paths, lengths, strict=True):
        if not length.isdecimal():
            raise ManifestError(f"{source}: num_frames of {path} is {length!r}, not a number")
    order = sorted(range(len(ids)), key=ids.__getitem__)
    labels = sorted(columns.keys() - set(tables.RESERVED))
    return Manifest(
        tuple(ids[row] for row in order),
        tuple(paths[row] for row in order),
        {
            x: tuple("" if (v := columns[x][row]) in _MISSING else v for row in order)
            for x in labels
        },
        tuple(split[row] for row in order),
        tuple(int(lengths[row]) for row in order),
    )


@checks.arguments
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


@checks.arguments
def summary(manifest: Manifest, problems: Sequence[Problem]) -> str:
    """Return a text with counts by split and label, and the first videos that are left out."""
    split = Counter(manifest.split)
    lines = [f"{len(manifest)} videos: {split['train']} for training, {split['test']} held out"]
    for column, values in manifest.labels.items():
        counts = Counter(values)
        missing = f"; {counts.pop('')} videos without a label" if "" in counts else ""
        shown = ", ".join(f"{value} {n}" for value, n in counts.most_common(8))
        more = ", ..." * (len(counts) > 8)
        lines.append(f"  {column}: {len(counts)} values: {shown}{more}{missing}")
    if problems:
        lines += [f"  left out {len(problems)} videos:", *listed(problems)]
    return "\n".join(lines)


def listed(problems: Sequence[Problem]) -> list[str]:
    """Return a line for each of the first problems, and a line with the number of the rest."""
    lines = [f"    {problem.path}: {problem.reason}" for problem in problems[:_SHOWN]]
    more = len(problems) - _SHOWN
    return lines + ([f"    and {more:,} more"] if more > 0 else [])


def signature(source: str | Path) -> str:
    """Return a hash of the manifest `source` and of size and time of each file, if it exists."""
    manifest, _ = _read(filesystem.path_of(source))
    digest = hashlib.sha256(repr((manifest.video_ids, manifest.labels, manifest.split)).encode())
    for path, version in zip(manifest.paths, versions(manifest), strict=True):
        digest.update(f"{path} {version}\n".encode())
    return digest.hexdigest()[:16]


def versions(manifest: Manifest) -> list[str]:
    """Return size and time of the file that contains each video, "missing" for a missing file."""

    @functools.cache
    def version(file: str) -> str:
        try:
            return " ".join(map(str, filesystem.file_version(file)))
        except OSError:
            return "missing"

    return [version(shards.file_of(path)) for path in manifest.paths]


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a TSV with a header of `columns`, atomically."""
    filesystem.write_text(path, _table(columns, rows))


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    # csv quotes a value with a line break only if the line terminator has the same character
    lines: list[str] = []
    file = SimpleNamespace(write=lambda line: lines.append(line.removesuffix("\r\n") + "\n"))
    writer = csv.writer(file, delimiter="\t", lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return "".join(lines)
