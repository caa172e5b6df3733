"""Box files of every video of a collection, in parallel; what is done already stays."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from vcjax.data import video as videos
from vcjax.idt import detectors, people
from vcjax.idt.detectors import base
from vcjax.runtime import atomic, worker_pool

_SETTINGS = "detector.json"


@dataclass(frozen=True)
class Settings:
    """What decides the boxes."""

    detector: str  # as `detectors.create` takes it
    min_score: float | None = None  # of a person; None: the detector's own
    max_people: int = 8  # on a frame, the largest: of a crowd that watches little else is left


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
    """Number of frames with people of each video id; the boxes are in `people.path_of` of it.

    A video is left alone if its box file is there and not older than the video. Of videos that
    fail, "skip" logs each and leaves no file; "error" raises one ValueError that names them, once
    the others are done. Raises ValueError if the folder holds boxes of other settings.
    """
    _detector(settings)  # a name or a file that is wrong is told once, and now
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
    path, wanted = directory / _SETTINGS, json.dumps(asdict(settings), indent=1) + "\n"
    if path.exists() and path.read_text() != wanted:
        raise ValueError(
            f"{path}: the folder holds boxes of other settings, {json.loads(path.read_text())}; "
            "choose another folder"
        )
    _write(path, wanted)


def _detect_one(job: _Job) -> int:
    """Number of frames with people, whose boxes are in the file then."""
    if not _is_done(job):
        _write(job.target, "".join(lines(job.video, _detector(job.settings), job.settings)))
    return sum(len(boxes) > 0 for boxes in people.read(job.target))


def _is_done(job: _Job) -> bool:
    made = job.video.stat().st_mtime_ns
    return job.target.is_file() and job.target.stat().st_mtime_ns >= made


def lines(video: Path, detector: base.Detector, settings: Settings) -> Iterator[str]:
    """A line `frame (left top right bottom score)*` for each frame of the video."""
    for index, frame in enumerate(videos.frames(video)):
        found = base.largest(detector(frame), settings.max_people)
        boxes = [f" {a:.1f} {b:.1f} {c:.1f} {d:.1f} {score:.4f}" for a, b, c, d, score in found]
        yield f"{index}{''.join(boxes)}\n"


@lru_cache(maxsize=1)  # one for all videos of a process
def _detector(settings: Settings) -> base.Detector:
    return detectors.create(settings.detector, min_score=settings.min_score)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.replacing(path) as file:
        file.write(text.encode())
