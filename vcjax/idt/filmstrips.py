"""Filmstrips of videos with their tracks, which show why two videos are neighbors.

A filmstrip is a JPEG with a few frames of the middle of a video side by side.
"""

import colorsys
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from vcjax.data import shards, video
from vcjax.idt.trajectories import IdtSettings
from vcjax.runtime import atomic

if TYPE_CHECKING:
    from vcjax.idt.extraction import Step
    from vcjax.idt.tracks import Tracks

NUM_FRAMES = 8
WIDTH, HEIGHT = 128, 96  # largest size of a frame in the strip in pixels
_STEP = 3  # frames of the video from one frame of the strip to the next
_BEFORE = 10  # frames that are tracked before the first frame of the strip
_MAX_SIDE = 192  # pixels of the frames that are tracked, for speed
_ZOOM = 2  # of these frames while tracks are drawn
_CAMERA = (150, 150, 150)  # color of tracks that move with the camera or not at all
_MIN_AGE = 4  # steps of a drawn track
_QUALITY = 70  # of the JPEG

Tiles = UInt8[np.ndarray, "t h w 3"]


class Job(NamedTuple):
    """A filmstrip to draw."""

    video_id: str
    path: str
    num_frames: int  # of the video
    target: Path

    @property
    def video(self) -> Path:
        """File of the video."""
        return Path(shards.file_of(self.path))


def path_of(directory: Path, video_id: str) -> Path:
    """Return the file of a video's filmstrip."""
    encoded = video_id.encode("utf-8", "surrogatepass")
    return directory / f"{hashlib.blake2b(encoded, digest_size=10).hexdigest()}.jpg"


def write(job: Job) -> int:
    """Write the filmstrip of a video unless it is newer than the video; return 1 if written."""
    if job.target.exists() and job.video.exists():
        if job.target.stat().st_mtime_ns > job.video.stat().st_mtime_ns:
            return 0
    tiles = list(_tiles(job.path, job.num_frames))
    tiles += [tiles[-1]] * (NUM_FRAMES - len(tiles))
    with atomic.atomic_write(job.target) as file:
        Image.fromarray(np.concatenate(tiles, axis=1)).save(file, "JPEG", quality=_QUALITY)
    return 1


def read(path: Path) -> Tiles:
    """Return the frames of a filmstrip, RGB in [0, 255]."""
    with Image.open(path) as strip:
        return np.stack(np.split(np.asarray(strip.convert("RGB")), NUM_FRAMES, axis=1))


def _tiles(path: str, num_frames: int) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Yield the frames of a strip with the tracks that end on them."""
    # imported late: reading a strip does not need numba
    from vcjax.idt import extraction

    span = min(_BEFORE + 1 + (NUM_FRAMES - 1) * _STEP, num_frames)
    frames = video.clip(path, (num_frames - span) // 2, span)
    settings = IdtSettings(max_side=_MAX_SIDE)
    motion = extraction.estimated(None, "flow", settings)
    first = span - 1 - (NUM_FRAMES - 1) * _STEP
    for step in extraction.follow(frames, motion, settings):
        if step.frame >= max(first, 0) and (step.frame - first) % _STEP == 0:
            yield fit(_draw(step, settings))


def _draw(step: "Step", settings: IdtSettings) -> UInt8[np.ndarray, "h w 3"]:
    from vcjax.idt import pyramid

    picture = cv2.resize(step.picture, None, fx=_ZOOM, fy=_ZOOM, interpolation=cv2.INTER_LINEAR)
    for scale, level in zip(pyramid.scales(settings), step.live, strict=False):
        old = level.where(level.age >= _MIN_AGE)
        for points, color in _lines(old, scale, settings):
            cv2.polylines(picture, [points], False, color, 2, cv2.LINE_AA)
    return picture


def _lines(
    level: "Tracks", scale: float, settings: IdtSettings
) -> Iterator[tuple[np.ndarray, tuple[int, int, int]]]:
    """Yield the points of each track and its color, tracks of the camera first."""
    lengths = np.linalg.norm(level.steps * scale, axis=2).max(axis=1, initial=0)
    # the camera may move the whole picture, so these tracks would hide all others
    own = lengths > settings.min_warped_step * _MAX_SIDE / 320
    for track in np.argsort(own, kind="stable").tolist():
        age = level.age[track]
        points = np.rint(level.points[track, : age + 1] * scale * _ZOOM).astype(np.int32)
        if own[track]:
            yield points, direction_color(*level.steps[track, :age].sum(axis=0).tolist())
        elif np.ptp(points, axis=0).max() > 2 * _ZOOM:
            yield points, _CAMERA


def direction_color(x: float, y: float) -> tuple[int, int, int]:
    """Return the RGB color of a direction (y downward): red right, green up, cyan left."""
    hue = np.arctan2(-y, x) / (2 * np.pi) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def fit(
    frame: UInt8[np.ndarray, "h w 3"], size: tuple[int, int] = (WIDTH, HEIGHT)
) -> UInt8[np.ndarray, "_ _ 3"]:
    """Return a frame resized to at most the width and height of `size`, without padding."""
    return np.asarray(ImageOps.contain(Image.fromarray(frame), size))
