"""Verification of all videos in parallel before any stage depends on them."""

import contextlib
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from vcjax.data import manifest as manifests
from vcjax.data import shards, video
from vcjax.data.manifest import Manifest, ManifestError, Problem
from vcjax.runtime import checks, filesystem, progress, worker_pool

log = logging.getLogger(__name__)


@checks.arguments
def verify(
    manifest: Manifest, *, on_error: str, decode: bool, num_workers: int
) -> tuple[Manifest, list[Problem]]:
    """Return `manifest` with frame counts and without invalid videos, and a list of these videos.

    Args:
        manifest: Videos to verify.
        on_error: "skip" leaves invalid videos out; "error" raises an error that names all of them.
        decode: Decode every frame once; otherwise only the metadata of the files is read.
        num_workers: Number of processes.

    Raises:
        ManifestError: If a video is invalid with `on_error` "error", or if all videos are.
    """
    if on_error not in ("error", "skip"):
        raise ManifestError(f"on_error is {on_error!r}; use error or skip")
    if on_error == "error":
        check_files(manifest)
    probed = probe_all(manifest.paths, decode=decode, num_workers=num_workers)
    problems = [
        Problem(manifest.video_ids[row], manifest.paths[row], result)
        for row, result in enumerate(probed)
        if isinstance(result, str)
    ]
    check_problems(problems, len(manifest), on_error)
    counted = replace(manifest, num_frames=tuple(0 if isinstance(r, str) else r for r in probed))
    return counted.take(r for r, n in enumerate(probed) if not isinstance(n, str)), problems


def check_files(manifest: Manifest) -> None:
    """Check that all local files exist, have content and can be opened, before any is decoded.

    Raises:
        ManifestError: If files are missing, empty, not readable, folders, pipes or devices.
    """
    problems = []
    for video_id, path in zip(manifest.video_ids, manifest.paths, strict=True):
        with contextlib.suppress(OSError):  # a reader reports any other error
            file = shards.file_of(path)
            if not filesystem.is_remote(file) and (reason := _file_problem(Path(file))):
                problems.append(Problem(video_id, path, reason))
    check_problems(problems, len(manifest), "error")


def _file_problem(file: Path) -> str:
    """Return the reason why a local file cannot be opened, "" if it can."""
    if not file.is_file():
        return "not a regular file" if file.exists() else "no such file"
    if not file.stat().st_size:
        return "the file is empty"
    return "" if os.access(file, os.R_OK) else filesystem.NO_PERMISSION


def check_problems(problems: Sequence[Problem], num_videos: int, on_error: str) -> None:
    """Raise ManifestError if no valid video is left, or for any problem with `on_error` "error"."""
    if problems and on_error == "error":
        lines = "\n".join(manifests.listed(problems))
        raise ManifestError(
            f"{len(problems)} of {num_videos} videos cannot be used:\n{lines}\n"
            "Repair them, or leave them out: on_error=skip (in a run: --config.data.on_error=skip, "
            "which lists all of them in problems.tsv)"
        )
    if len(problems) == num_videos:
        first = problems[0]
        raise ManifestError(
            f"none of {num_videos} videos can be used; first problem: {first.path}: {first.reason}"
        )


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
    """Return the number of frames of each video, or the reason why it cannot be read.

    With several workers, a video that crashes its worker is also reported with a reason. Videos
    that can only be decoded from their first frame on are logged in one line.
    """
    jobs = [_Job(row, path, decode) for row, path in enumerate(paths)]
    results: list[int | str] = [0] * len(jobs)
    slow: list[str] = []
    with progress.bar(desc="verify", unit="video", total=len(jobs)) as bar:
        for result in worker_pool.run_all(jobs, _probe, num_workers):
            job, problem = result.job, result.problem.removeprefix(f"{result.job.path}: ")
            results[job.row] = problem or abs(result.num_found)
            slow += [job.path] if result.num_found < 0 else []
            bar.update()
    if slow:
        log.warning(
            "%d of %d files cannot be sought, and every clip of them is decoded from the first "
            "frame on (first file: %s); to read them faster: vcjax data prepare VIDEOS PREPARED",
            len(slow),
            len(jobs),
            min(slow),
        )
    return results


def _probe(job: _Job) -> int:
    """Return the number of frames, negative if the video cannot be sought."""
    info = video.probe(job.path, decode=job.decode)
    return info.num_frames if info.seekable else -info.num_frames
