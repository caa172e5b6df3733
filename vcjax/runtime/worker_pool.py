"""One function over many videos, in processes: what fails is told once the others are done."""

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

DIED = "the process that read it died"  # the problem of such a video


class Job(Protocol):
    """What is to be done with one video; goes to another process."""

    @property
    def video_id(self) -> str:
        """Id of the video."""

    @property
    def video(self) -> Path:
        """File of the video."""


J = TypeVar("J", bound=Job)


class Result(NamedTuple, Generic[J]):
    """How much was found (trajectories, frames with people), or why there is nothing."""

    job: J
    num_found: int
    problem: str


def run(
    jobs: Sequence[J], work: Callable[[J], int], *, desc: str, num_workers: int, on_error: str
) -> tuple[dict[str, int], list[Result[J]]]:
    """What `work` counted of each video, by id in the order of `jobs`, and those that failed.

    With `on_error` "skip" failures are logged and count 0; with "error" one ValueError names all
    of them, once the others are done.
    """
    if on_error not in ("error", "skip"):
        raise ValueError(f"on_error is {on_error!r}; use 'error' or 'skip'")
    counts: dict[str, int] = {}
    failed: list[Result[J]] = []
    bar = progress.bar(desc=desc, unit="video", total=len(jobs))
    for result in run_all(jobs, work, num_workers):
        counts[result.job.video_id] = result.num_found
        if result.problem:
            failed.append(result)
        bar.update()
    bar.close()
    lines = [f"{result.job.video_id}: {result.problem}" for result in failed]
    if lines and on_error == "error":
        raise ValueError(f"{desc}: {len(lines)} videos failed:\n  " + "\n  ".join(lines))
    for line in lines:
        log.warning("%s: nothing of %s", desc, line)
    return {job.video_id: counts[job.video_id] for job in jobs}, failed


def run_all(jobs: Sequence[J], work: Callable[[J], int], num_workers: int) -> Iterator[Result[J]]:
    """The result of each job as it comes, large files first.

    When a process dies, the jobs that were running then are run one by one to see which did it.
    """
    waiting = deque(sorted(jobs, key=_size, reverse=True))
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
    """Takes jobs off `waiting` until none is left or a process dies; returns those then running."""
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
    """Lets this process die with the one that started it, or a pool outlives a killed program."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _size(job: Job) -> int:
    return job.video.stat().st_size if job.video.is_file() else 0


def attempt(work: Callable[[J], int], job: J) -> Result[J]:
    """What `work` counted, or the one line that it failed with."""
    try:
        return Result(job, work(job), "")
    except Exception as error:  # whatever a decoder or OpenCV raises concerns this video alone
        log.debug("%s", job.video_id, exc_info=True)
        expected = isinstance(error, ValueError | OSError)
        return Result(job, 0, str(error) if expected else f"{type(error).__name__}: {error}")
