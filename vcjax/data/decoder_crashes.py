"""Files whose decoding kills the process that reads them, as a fault in a decoder does.

Which videos are being read stands in a file that outlives the process. After a death each of them
is decoded once more in a process of its own: one that kills it is excluded from then on, by name,
size and time, in this run and the next.
"""

import contextlib
import csv
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import grain

from vcjax.data import clips, shards, video
from vcjax.data.manifest import Manifest
from vcjax.data.read_marks import Marks
from vcjax.runtime import filesystem, worker_pool

log = logging.getLogger(__name__)

_PATIENCE = 3  # deaths at the same step without a culprit
_COLUMNS = ("video_id", "path", "size", "version")


def outlived(
    dataset: Callable[[frozenset[int], Marks], grain.MapDataset],
    videos: Manifest,
    *,
    listed: Path,
    marks: Path,
    num_workers: int,
    num_threads: int,
) -> Iterator[clips.Batch]:
    """Batches of the dataset without certain rows, on past the death of processes that read it.

    `listed` is the table of excluded files, `marks` the file of those being read. Without worker
    processes a death ends the program, and the next one excludes the file. Raises RuntimeError when
    processes die at the same step again and again, and no file alone is to blame.
    """
    marked = Marks.in_file(marks, len(videos))
    excluded = _excluded(listed, videos)
    excluded |= _culprits(marked.take() - excluded, videos, listed)
    step, deaths = 0, 0
    suspects: set[int] = set()
    while True:
        batches = clips.iterate(
            dataset(frozenset(excluded), marked)[step:],
            num_workers=num_workers,
            num_threads=num_threads,
        )
        try:
            for batch in batches:
                step, deaths = step + 1, 0
                yield batch
            return
        except RuntimeError as error:
            deaths += 1
            if "terminated unexpectedly" not in str(error) or deaths > _PATIENCE:
                raise
            log.warning("a process that reads clips died: %s", error)
        batches.close()  # the others end what they are reading
        now = marked.take() - excluded
        found = _culprits(now, videos, listed)
        if not found and deaths > 1:  # not by itself, but every time
            found = _exclude(now & suspects, videos, listed)
        excluded |= found
        suspects = now - excluded


class _Job(NamedTuple):
    row: int
    video_id: str
    path: str

    @property
    def video(self) -> Path:
        return filesystem.path_of(shards.file_of(self.path))


def _culprits(rows: set[int], videos: Manifest, listed: Path) -> set[int]:
    """Those of `rows` that kill a process by themselves; they are excluded."""
    jobs = [_Job(row, videos.video_ids[row], videos.paths[row]) for row in sorted(rows)]
    results = worker_pool.run_all(jobs, _read, 2) if jobs else ()
    return _exclude({r.job.row for r in results if r.problem == worker_pool.DIED}, videos, listed)


def _read(job: _Job) -> int:
    with contextlib.suppress(video.DecodeError):
        return sum(1 for _ in video.frames(job.path))
    return 0


def _exclude(rows: set[int], videos: Manifest, listed: Path) -> set[int]:
    if not rows:
        return rows
    with listed.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        if not file.tell():
            writer.writerow(_COLUMNS)
        for row in sorted(rows):
            log.warning("%s kills the process that reads it, and is replaced", videos.paths[row])
            writer.writerow((videos.video_ids[row], videos.paths[row], *_stamp(videos.paths[row])))
    return rows


def _excluded(listed: Path, videos: Manifest) -> set[int]:
    """Rows of the files in the table that have not changed since."""
    if not listed.exists():
        return set()
    with listed.open(newline="", encoding="utf-8") as file:
        known = {tuple(row.values()) for row in csv.DictReader(file, delimiter="\t")}
    names = {name for name, *_ in known}
    return {
        row
        for row, (name, path) in enumerate(zip(videos.video_ids, videos.paths, strict=True))
        if name in names and (name, path, *_stamp(path)) in known
    }


def _stamp(path: str) -> tuple[str, str]:
    try:
        size, version = filesystem.stamp(shards.file_of(path))
    except OSError:
        return "0", ""
    return str(size), version
