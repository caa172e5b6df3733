"""Person detection in every video of a collection, in parallel; finished box files are kept."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from vcjax.data import video as videos
from vcjax.idt import detectors, people
from vcjax.idt.detectors import interface
from vcjax.runtime import atomic, worker_pool

_SETTINGS = "detector.json"


@dataclass(frozen=True)
class Settings:
    """Settings that determine the boxes; a copy is stored in the folder of the boxes."""

    detector: str  # a name that `detectors.create` accepts
    min_score: float | None = None  # lowest score of a person; None: the detector's default
    max_people: int = 8  # per frame, the largest: masking a whole crowd leaves no background


class _Job(NamedTuple):
    video_id: str
    video: Path
    settings: Settings
    target: Path


def detect_collection(
    videos: Mapping[str, str],
    directory: Path,
    settings: Settings,
    *,
    num_workers: int,
    on_error: str,
) -> dict[str, int]:
    """Detect people in every video and return the number of frames with people by video id.

    A video is skipped if its box file exists and is not older than the video.

    Args:
        videos: Video files by id.
        directory: Output folder, with the boxes of a video in `people.path_of(directory, id)`.
        settings: Detector and thresholds; a folder holds boxes of one setting only.
        num_workers: Number of processes.
        on_error: "skip" logs the videos that fail and writes no file for them; "error" raises one
            ValueError that names them, after all videos were tried.

    Raises:
        ValueError: If the detector cannot be created, if the folder holds boxes of other settings,
            or if videos fail and `on_error` is "error".
    """
    detector(settings)  # an invalid name or file fails here, before any process starts
    _keep_settings(directory, settings)
    jobs = [
        _Job(video_id, Path(path), settings, people.path_of(directory, video_id))
        for video_id, path in videos.items()
    ]
    return worker_pool.run(
        jobs, _detect_one, desc="detect", num_workers=num_workers, on_error=on_error
    )[0]


def _keep_settings(directory: Path, settings: Settings) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    path, text = directory / _SETTINGS, json.dumps(asdict(settings), indent=1) + "\n"
    if path.exists() and (before := path.read_text("utf-8")) != text:
        raise ValueError(
            f"{path}: the folder holds boxes of other settings, {' '.join(before.split())}; "
            "choose another output folder"
        )
    _write(path, text)


def _detect_one(job: _Job) -> int:
    """Write the box file unless it is up to date; return the number of frames with people."""
    if not _is_done(job):
        _write(job.target, "".join(lines(job.video, detector(job.settings), job.settings)))
    return sum(len(boxes) > 0 for boxes in people.read(job.target))


def _is_done(job: _Job) -> bool:
    made = job.video.stat().st_mtime_ns
    return job.target.is_file() and job.target.stat().st_mtime_ns >= made


def lines(video: Path, detector: interface.Detector, settings: Settings) -> Iterator[str]:
    """Yield a line `frame (left top right bottom score)*` for each frame of the video."""
    for index, frame in enumerate(videos.frames(video)):
        yield line(index, detector(frame), settings)


def line(index: int, detections: interface.Detections, settings: Settings) -> str:
    """Return the line `frame (left top right bottom score)*` of one frame."""
    largest = interface.largest(detections, settings.max_people)
    boxes = [f" {a:.1f} {b:.1f} {c:.1f} {d:.1f} {score:.4f}" for a, b, c, d, score in largest]
    return f"{index}{''.join(boxes)}\n"


@lru_cache(maxsize=4)  # detectors per process, for all its videos
def detector(settings: Settings) -> interface.Detector:
    """Return the detector of `settings`."""
    return detectors.create(settings.detector, min_score=settings.min_score)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.atomic_write(path) as file:
        file.write(text.encode())
