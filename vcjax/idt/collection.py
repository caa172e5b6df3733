"""Trajectories of every video of a collection, in parallel; what is done already stays."""

import hashlib
import logging
import multiprocessing
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from vcjax import progress
from vcjax.idt import storage
from vcjax.idt.trajectories import IdtSettings, Trajectories

log = logging.getLogger(__name__)

_VERSION = 1  # of the trajectories; another one extracts anew


class _Job(NamedTuple):
    video_id: str
    video: Path
    boxes: Path | None
    matcher: str
    target: Path


class _Result(NamedTuple):
    """How many trajectories, or why there are none."""

    job: _Job
    num_rows: int
    problem: str


def extract_collection(
    videos: Mapping[str, str],
    directory: Path,
    *,
    matcher: str,
    people: Path | None,
    num_workers: int,
    on_error: str,
) -> dict[str, int]:
    """Number of trajectories of each video id; the trajectories are in `storage.path_of` of it.

    `videos` are files by id; `people` is a folder of box files `VIDEO_ID.bb`. A video is extracted
    only if its file is not there, is damaged, or was made from something else. Of videos that
    fail, "skip" logs each and writes a file without rows; "error" raises one ValueError that names
    them, once the others are done.
    """
    if on_error not in ("error", "skip"):
        raise ValueError(f"on_error is {on_error!r}; use 'error' or 'skip'")
    directory.mkdir(parents=True, exist_ok=True)
    jobs = [
        _Job(
            video_id,
            Path(path),
            people / f"{video_id}.bb" if people else None,
            matcher,
            storage.path_of(directory, video_id),
        )
        for video_id, path in videos.items()
    ]
    counts: dict[str, int] = {}
    failed: list[_Result] = []
    bar = progress.bar(desc="idt", unit="video", total=len(jobs))
    for result in _run_all(jobs, num_workers):
        counts[result.job.video_id] = result.num_rows
        if result.problem:
            failed.append(result)
        bar.update()
    bar.close()
    _report(failed, on_error)
    return {video_id: counts[video_id] for video_id in videos}


def _report(failed: Sequence[_Result], on_error: str) -> None:
    lines = [f"{result.job.video_id}: {result.problem}" for result in failed]
    if lines and on_error == "error":
        raise ValueError(f"no trajectories of {len(lines)} videos:\n  " + "\n  ".join(lines))
    for result, line in zip(failed, lines, strict=True):
        log.warning("no trajectories of %s", line)
        # not its real source: the video is tried again in the next run
        storage.write(result.job.target, Trajectories.empty(), source={"problem": result.problem})


def _run_all(jobs: Sequence[_Job], num_workers: int) -> Iterator[_Result]:
    """The result of each job as it comes, large files first.

    When a process dies, the jobs that were running then are run one by one to see which did it.
    """
    waiting = deque(sorted(jobs, key=_size, reverse=True))
    if num_workers <= 1:
        yield from map(_run, waiting)
        return
    while waiting:
        suspects = yield from _run_in_pool(waiting, num_workers)
        for suspect in suspects:
            alone = deque([suspect])
            if (yield from _run_in_pool(alone, 1)):
                yield _Result(suspect, 0, "the process that read it died")


def _run_in_pool(waiting: deque[_Job], num_workers: int) -> Generator[_Result, None, list[_Job]]:
    """Takes jobs off `waiting` until none is left or a process dies; returns those then running."""
    running: dict[Future[_Result], _Job] = {}
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < num_workers:
                    job = waiting[0]
                    running[pool.submit(_run, job)] = job
                    waiting.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    del running[future]
                    yield result
        except BrokenProcessPool:
            return list(running.values())
    return []


def _size(job: _Job) -> int:
    return job.video.stat().st_size if job.video.is_file() else 0


def _run(job: _Job) -> _Result:
    try:
        source = _source(job)
        found = _stored_count(job.target, source)
        if found is not None:
            return _Result(job, found, "")
        from vcjax.idt import extraction  # OpenCV and numba, not needed where all is done

        trajectories = extraction.extract(job.video, people=job.boxes, matcher=job.matcher)
        storage.write(job.target, trajectories, source=source)
        return _Result(job, trajectories.num_rows, "")
    except Exception as error:  # whatever a decoder or OpenCV raises concerns this video alone
        log.debug("%s", job.video_id, exc_info=True)
        expected = isinstance(error, ValueError | OSError)
        return _Result(job, 0, str(error) if expected else f"{type(error).__name__}: {error}")


def _source(job: _Job) -> dict[str, Any]:
    """What the trajectories depend on."""
    status = job.video.stat()
    boxes = hashlib.sha256(job.boxes.read_bytes()).hexdigest() if job.boxes else ""
    return {
        "version": _VERSION,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "settings": asdict(IdtSettings()),
        "matcher": job.matcher,
        "people": boxes,
    }


def _stored_count(target: Path, source: Mapping[str, Any]) -> int | None:
    """Number of rows that are there from that source, else None."""
    if not target.exists():
        return None
    try:
        trajectories, stored = storage.read_with_source(target)
    except storage.StorageError as error:
        log.warning("%s; extracted again", error)
        return None
    return trajectories.num_rows if stored == source else None
