"""Every video opened once before anything depends on it, in parallel; bad ones are listed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from vcjax.data import video
from vcjax.data.manifest import Manifest, ManifestError, Problem
from vcjax.runtime import filesystem, progress, worker_pool


def verify(
    manifest: Manifest, *, on_error: str, decode: bool, num_workers: int
) -> tuple[Manifest, list[Problem]]:
    """`manifest` with its frames counted, and the videos that cannot be used.

    With `on_error` "skip" these are left out, with "error" a ManifestError names all of them.
    With `decode` every frame is decoded once, else only what the files declare is read.
    """
    if on_error not in ("error", "skip"):
        raise ManifestError(f"data.on_error is {on_error!r}; use error or skip")
    probed = probe_all(manifest.paths, decode=decode, num_workers=num_workers)
    problems = [
        Problem(manifest.video_ids[row], manifest.paths[row], result)
        for row, result in enumerate(probed)
        if isinstance(result, str)
    ]
    check_problems(problems, len(manifest), on_error)
    counted = replace(manifest, num_frames=tuple(0 if isinstance(r, str) else r for r in probed))
    return counted.take(r for r, n in enumerate(probed) if not isinstance(n, str)), problems


def check_problems(problems: Sequence[Problem], num_videos: int, on_error: str) -> None:
    """Raises ManifestError for any problem with "error", else if no video is left."""
    if problems and on_error == "error":
        listed = "\n".join(f"  {p.video_id}: {p.reason}" for p in problems)
        raise ManifestError(
            f"{len(problems)} of {num_videos} videos cannot be used:\n{listed}\n"
            "Mend them, or leave them out with on_error=skip (--config.data.on_error=skip)"
        )
    if len(problems) == num_videos:
        raise ManifestError(f"none of {num_videos} videos can be used, first: {problems[0]}")


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
