"""Parallel processing of many videos, where failures are reported after all were tried."""

import logging
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

from vcjax.runtime import progress

log = logging.getLogger(__name__)

DIED = "the process that read it died"  # `Result.problem` if the process of a video died


class Job(Protocol):
    """Work on one video, as sent to another process."""

    @property
    def video_id(self) -> str:
        """Return the id of the video."""

    @property
    def video(self) -> Path:
        """Return the file of the video."""


J = TypeVar("J", bound=Job)


class Result(NamedTuple, Generic[J]):
    """Count of a video (of trajectories or of frames with people), or the reason of a failure."""

    job: J
    num_found: int
    problem: str


def run(
    jobs: Sequence[J], work: Callable[[J], int], *, desc: str, num_workers: int, on_error: str
) -> tuple[dict[str, int], list[Result[J]]]:
    """Run `work` on each job; return the counts by video id and the results that failed.

    Args:
        jobs: One job per video; the counts are in this order.
        work: Function that processes a job and returns a count; has to be picklable.
        desc: Name of the work in the progress bar and in messages.
        num_workers: Number of processes; with 1, the work runs in this process.
        on_error: "skip" logs failures and counts them as 0; "error" raises one ValueError that
            names them, after all jobs were tried.

    Raises:
        ValueError: If `on_error` is "error" and jobs fail, or if it is not a valid choice.
        TypeError, AttributeError, ImportError: As for `attempt`, with any `on_error`.
    """
    if on_error not in ("error", "skip"):
        raise ValueError(f"on_error is {on_error!r}; use 'error' or 'skip'")
    counts: dict[str, int] = {}
    failed: list[Result[J]] = []
    with progress.bar(desc=desc, unit="video", total=len(jobs)) as bar:
        for result in run_all(jobs, work, num_workers):
            counts[result.job.video_id] = result.num_found
            if result.problem:
                failed.append(result)
            bar.update()
    lines = [f"{result.job.video_id}: {result.problem}" for result in failed]
    if lines and on_error == "error":
        hint = "to leave them out: --on_error=skip, or --config.data.on_error=skip in a run"
        raise ValueError(f"{desc}: {len(lines)} videos failed ({hint}):\n  " + "\n  ".join(lines))
    for line in lines:
        log.warning("%s: skipped video %s", desc, line)
    return {job.video_id: counts[job.video_id] for job in jobs}, failed


def run_all(
    jobs: Sequence[J], work: Callable[[J], int], num_workers: int, *, in_order: bool = False
) -> Iterator[Result[J]]:
    """Yield the result of each job as it completes.

    Jobs with large files start first, or with `in_order`, jobs start in their order.

    If a process dies, the jobs that were running are run again one at a time, to identify the job
    that kills its process. Its result has the problem `DIED`.
    """
    waiting = deque(jobs if in_order else sorted(jobs, key=_size, reverse=True))
    if num_workers <= 1:
        yield from (attempt(work, job) for job in waiting)
        return
    while waiting:
        suspects = yield from _run_in_pool(waiting, work, num_workers)
        for suspect in suspects:
            alone = deque([suspect])
            if (yield from _run_in_pool(alone, work, 1)):
                yield Result(suspect, 0, DIED)


def _run_in_pool(
    waiting: deque[J], work: Callable[[J], int], num_workers: int
) -> Generator[Result[J], None, list[J]]:
    """Yield results until `waiting` is empty or a process dies; return the jobs then running."""
    # not pebble.ProcessPool (5.2.3): if a worker dies while it receives a job, the job stays
    # pending, and the job of another worker is reported as dead
    running: dict[Future[Result[J]], J] = {}
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(num_workers, context, end_with_parent) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < num_workers:
                    job = waiting[0]
                    running[pool.submit(attempt, work, job)] = job
                    waiting.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    del running[future]
                    yield result
        except BrokenProcessPool:
            return list(running.values())
    return []


def end_with_parent() -> None:
    """End this process when its parent ends; a pool would otherwise outlive a killed program."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _size(job: Job) -> int:
    """Return the size of the video in bytes, 0 if it cannot be read; `work` then reports why."""
    try:
        return job.video.stat().st_size if job.video.is_file() else 0
    except OSError:  # for example a name that is too long for the file system
        return 0


# Errors of the program or of a library whose API differs, never of a video.
_PROGRAM_ERRORS = (TypeError, AttributeError, ImportError)


def attempt(work: Callable[[J], int], job: J) -> Result[J]:
    """Return the count of `work`, or the message of its error as the problem.

    Raises:
        TypeError, AttributeError, ImportError: The program or an installed library is at fault;
            the error has a note with the id of the video.
    """
    try:
        return Result(job, work(job), "")
    except _PROGRAM_ERRORS as error:
        error.add_note(
            f"(at {job.video_id}) The video is not at fault: this is an error of the program "
            "or of the version of an installed library; constraints.txt lists tested versions."
        )
        raise
    except Exception as error:  # any other error of a decoder or OpenCV concerns this video only
        log.debug("%s", job.video_id, exc_info=True)
        expected = isinstance(error, ValueError | OSError)
        return Result(job, 0, str(error) if expected else f"{type(error).__name__}: {error}")
