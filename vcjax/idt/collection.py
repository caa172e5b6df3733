"""Trajectories of every video of a collection, in parallel; what is done already stays."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from vcjax.idt import people as boxes
from vcjax.idt import storage
from vcjax.idt.trajectories import IdtSettings, Trajectories
from vcjax.runtime import worker_pool

log = logging.getLogger(__name__)

_VERSION = 2  # of the trajectories; another one extracts anew


class Job(NamedTuple):
    """The trajectories of one video."""

    video_id: str
    video: Path
    boxes: Path | None
    matcher: str
    target: Path


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
    counts, failed = worker_pool.run(
        jobs(videos, directory, matcher=matcher, people=people),
        extract_one,
        desc="idt",
        num_workers=num_workers,
        on_error=on_error,
    )
    for result in failed:
        leave_empty(result)
    return counts


def jobs(
    videos: Mapping[str, str], directory: Path, *, matcher: str, people: Path | None
) -> list[Job]:
    """One a video, into `directory`, which is made."""
    directory.mkdir(parents=True, exist_ok=True)
    return [
        Job(
            video_id,
            Path(path),
            boxes.path_of(people, video_id) if people else None,
            matcher,
            storage.path_of(directory, video_id),
        )
        for video_id, path in videos.items()
    ]


def extract_one(job: Job) -> int:
    """Number of trajectories of the video, which are in its file then."""
    source = source_of(job)
    found = _stored_count(job.target, source)
    if found is not None:
        return found
    from vcjax.idt import extraction  # OpenCV and numba, not needed where all is done

    frames = extraction.extract_frames(job.video, people=job.boxes, matcher=job.matcher)
    return storage.write_frames(job.target, frames, source=source)


def leave_empty(result: worker_pool.Result[Job]) -> None:
    """A file without rows for a video that failed; the video is tried again in the next run."""
    storage.write(
        result.job.target, Trajectories.empty(), source={"problem": result.problem}
    )  # not its real source


def source_of(job: Job) -> dict[str, Any]:
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
        num_rows, stored = storage.inspect(target)
    except storage.StorageError as error:
        log.warning("%s; extracted again", error)
        return None
    return num_rows if stored == source else None
