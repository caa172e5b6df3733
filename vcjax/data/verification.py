"""Every video opened once before anything depends on it, in parallel."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vcjax.data import video
from vcjax.runtime import filesystem, progress, worker_pool


class _Job(NamedTuple):
    row: int
    path: str
    decode: bool

    @property
    def video_id(self) -> str:
        return self.path

    @property
    def video(self) -> Path:
        return filesystem.path_of(self.path)


def probe_all(paths: Sequence[str], *, decode: bool, num_workers: int) -> list[int | str]:
    """Number of frames of each video, or the reason why it cannot be read.

    With several workers also a video that kills the process which reads it has its reason.
    """
    jobs = [_Job(row, path, decode) for row, path in enumerate(paths)]
    results: list[int | str] = [0] * len(jobs)
    with progress.bar(desc="verify", unit="video", total=len(jobs)) as bar:
        for result in worker_pool.run_all(jobs, _probe, num_workers):
            job, problem = result.job, result.problem.removeprefix(f"{result.job.path}: ")
            results[job.row] = problem or result.num_found
            bar.update()
    return results


def _probe(job: _Job) -> int:
    return video.probe(job.path, decode=job.decode).num_frames
