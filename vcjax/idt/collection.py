"""Extraction from every video of a collection, in parallel; finished trajectories are kept."""

import contextlib
import hashlib
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from vcjax.data import video
from vcjax.idt import people as boxes
from vcjax.idt import storage
from vcjax.idt.trajectories import IdtSettings, Trajectories
from vcjax.runtime import worker_pool

log = logging.getLogger(__name__)

_LARGE = 1280  # pixels of the larger side
_MAX_SAMPLE = 1000  # videos whose size is read
VERSION = 2  # of the extraction; a change extracts all videos again


class Job(NamedTuple):
    """Extraction of the trajectories of one video."""

    video_id: str
    video: Path
    boxes: Path | None
    matcher: str
    target: Path
    max_side: int = 0  # pixels, 0: frames as they are

    @property
    def settings(self) -> IdtSettings:
        """Settings of the extraction."""
        return IdtSettings(max_side=self.max_side)


def extract_collection(
    videos: Mapping[str, str],
    directory: Path,
    *,
    matcher: str,
    people: Path | None,
    num_workers: int,
    on_error: str,
    max_side: int = 0,
) -> dict[str, int]:
    """Extract the trajectories of every video and return their numbers by video id.

    A video is skipped if its trajectory file is intact and was made from the same inputs.

    Args:
        videos: Video files by id.
        directory: Output folder; the file of a video is `storage.path_of(directory, id)`.
        matcher: Point matches for camera motion, a key of `camera.MATCHERS`.
        people: Folder of box files `VIDEO_ID.bb`, or None.
        num_workers: Number of processes.
        on_error: "skip" logs the videos that fail and writes files without rows for them; "error"
            raises one ValueError that names them, after all videos were tried.
        max_side: Larger side in pixels to which larger frames are reduced; 0 keeps all sizes.

    Raises:
        ValueError: If videos fail and `on_error` is "error".
    """
    counts, failed = worker_pool.run(
        jobs(videos, directory, matcher=matcher, people=people, max_side=max_side),
        extract_one,
        desc="idt",
        num_workers=num_workers,
        on_error=on_error,
    )
    for result in failed:
        leave_empty(result)
    return counts


def jobs(
    videos: Mapping[str, str],
    directory: Path,
    *,
    matcher: str,
    people: Path | None,
    max_side: int = 0,
) -> list[Job]:
    """Create `directory` and return one job per video; log a line if frames are large."""
    directory.mkdir(parents=True, exist_ok=True)
    listed = [
        Job(
            video_id,
            Path(path),
            boxes.path_of(people, video_id) if people else None,
            matcher,
            storage.path_of(directory, video_id),
            max_side,
        )
        for video_id, path in videos.items()
    ]
    if not max_side:
        _report_large_frames([job for job in listed if not job.target.exists()])
    return listed


def _report_large_frames(waiting: list[Job]) -> None:
    """Log how many videos have large frames, of a sample in a large collection."""
    sample = waiting[:: math.ceil(len(waiting) / _MAX_SAMPLE) or 1]
    sizes = []
    for job in sample:
        with contextlib.suppress(video.DecodeError):  # reported by the extraction
            height, width = video.declared_size(job.video)
            sizes.append((height * width, max(height, width), f"{width} x {height}", job.video_id))
    large = [size for size in sizes if size[1] > _LARGE]
    if large:
        area, _, size, video_id = max(large)
        log.warning(
            "idt: %d of %d videos have large frames, up to %s pixels (%s). These are %.0f times "
            "the pixels of 320 x 240, and the time of extraction grows with them; to reduce: "
            "--max_side=640, or --config.idt.max_side=640 in a run",
            len(large),
            len(sample),
            size,
            video_id,
            area / (320 * 240),
        )


def extract_one(job: Job) -> int:
    """Write the trajectory file unless it is up to date; return the number of trajectories."""
    source = source_of(job)
    stored_count = _stored_count(job.target, source)
    if stored_count is not None:
        return stored_count
    # imported late: a rerun without new videos needs neither OpenCV nor numba
    from vcjax.idt import extraction

    frames = extraction.extract_frames(
        job.video, people=job.boxes, matcher=job.matcher, settings=job.settings
    )
    return storage.write_frames(job.target, frames, source=source)


def leave_empty(result: worker_pool.Result[Job]) -> None:
    """Write a file without rows for a video that failed; the next run tries the video again."""
    # differs from every `source_of`, so that the file is never up to date
    source = {"problem": result.problem}
    storage.write(result.job.target, Trajectories.empty(), source=source)


def source_of(job: Job) -> dict[str, Any]:
    """Return the inputs and settings that determine the trajectories."""
    status = job.video.stat()
    boxes = hashlib.sha256(job.boxes.read_bytes()).hexdigest() if job.boxes else ""
    settings = asdict(job.settings)
    if not job.max_side:  # trajectories of earlier versions stay up to date
        del settings["max_side"]
    return {
        "version": VERSION,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "settings": settings,
        "matcher": job.matcher,
        "people": boxes,
    }


def _stored_count(target: Path, source: Mapping[str, Any]) -> int | None:
    """Return the number of stored rows if they were made from `source`, else None."""
    if not target.exists():
        return None
    try:
        num_rows, stored = storage.inspect(target)
    except storage.StorageError as error:
        log.warning("replacing trajectories that cannot be read: %s", error)
        return None
    return num_rows if stored == source else None
