"""Exclusion of video files that crash the process decoding them, for example by a segfault.

The videos being read are recorded in a file that outlives the process. After a crash, each of them
is decoded again in a separate process. A video that crashes this process too is excluded from this
run and later ones until the file changes.
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

_MAX_CRASHES = 3  # in a row without a batch between them
_COLUMNS = ("video_id", "path", "size", "version")


def skip_crashing_videos(
    dataset: Callable[[frozenset[int], Marks], grain.MapDataset],
    videos: Manifest,
    *,
    listed: Path,
    marks: Path,
    num_workers: int,
    num_threads: int,
) -> Iterator[clips.Batch]:
    """Yield the batches of a data set, excluding videos that crash the worker processes.

    After a crash, reading resumes at the same step without the crashing video. Without worker
    processes a crash ends the program, and the next run excludes the video.

    Args:
      dataset: returns the batches, given the rows to exclude and the marks to set while reading.
      videos: the videos of the data set, by row.
      listed: table (TSV) of excluded files, read at the start and appended to.
      marks: file that records the videos being read.
      num_workers: worker processes; 0 reads in threads of this process.
      num_threads: reading threads of each process.

    Raises:
      RuntimeError: if worker processes crash more than 3 times in a row without delivering a batch.
    """
    marked = Marks.in_file(marks, len(videos))
    excluded = _excluded(listed, videos)
    excluded |= _exclude_crashing(marked.pop_in_flight() - excluded, videos, listed)
    step, num_crashes = 0, 0
    suspects: set[int] = set()
    while True:
        batches = clips.iterate(
            dataset(frozenset(excluded), marked)[step:],
            num_workers=num_workers,
            num_threads=num_threads,
        )
        try:
            for batch in batches:
                step, num_crashes = step + 1, 0
                yield batch
            return
        except RuntimeError as error:
            num_crashes += 1
            if "terminated unexpectedly" not in str(error) or num_crashes > _MAX_CRASHES:
                raise
            log.warning("a worker process died while reading clips, resuming: %s", error)
        batches.close()  # the remaining workers finish their videos and clear their marks
        in_flight = marked.pop_in_flight() - excluded
        crashing = _exclude_crashing(in_flight, videos, listed)
        # No video crashes a process alone: exclude the videos being read at both of two crashes.
        if not crashing and num_crashes > 1:
            crashing = _exclude(in_flight & suspects, videos, listed)
        excluded |= crashing
        suspects = in_flight - excluded


class _Job(NamedTuple):
    row: int
    video_id: str
    path: str

    @property
    def video(self) -> Path:
        return filesystem.path_of(shards.file_of(self.path))


def _exclude_crashing(rows: set[int], videos: Manifest, listed: Path) -> set[int]:
    """Decode each video of `rows` in another process; exclude and return the crashing rows."""
    jobs = [_Job(row, videos.video_ids[row], videos.paths[row]) for row in sorted(rows)]
    results = worker_pool.run_all(jobs, _read, 2) if jobs else ()
    return _exclude({r.job.row for r in results if r.problem == worker_pool.DIED}, videos, listed)


def _read(job: _Job) -> int:
    with contextlib.suppress(video.DecodeError):
        return sum(1 for _ in video.frames(job.path))
    return 0


def _exclude(rows: set[int], videos: Manifest, listed: Path) -> set[int]:
    """Append `rows` to the table `listed` and return them."""
    if not rows:
        return rows
    with listed.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        if not file.tell():
            writer.writerow(_COLUMNS)
        for row in sorted(rows):
            log.warning(
                "%s crashes the process that decodes it: excluded, other videos take its place; "
                "the exclusion is listed in %s",
                videos.paths[row],
                listed,
            )
            writer.writerow((videos.video_ids[row], videos.paths[row], *_stamp(videos.paths[row])))
    return rows


def _excluded(listed: Path, videos: Manifest) -> set[int]:
    """Return the rows of the excluded files that have not changed since their exclusion."""
    if not listed.exists():
        return set()
    with listed.open(newline="", encoding="utf-8") as file:
        entries = {tuple(row.values()) for row in csv.DictReader(file, delimiter="\t")}
    names = {name for name, *_ in entries}
    return {
        row
        for row, (name, path) in enumerate(zip(videos.video_ids, videos.paths, strict=True))
        if name in names and (name, path, *_stamp(path)) in entries
    }


def _stamp(path: str) -> tuple[str, str]:
    try:
        size, version = filesystem.file_version(shards.file_of(path))
    except OSError:
        return "0", ""
    return str(size), version
