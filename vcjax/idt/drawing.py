"""Drawing of tracks on a video, with separate colors for camera motion and other motion."""

import os
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from vcjax.data import video as videos
from vcjax.idt import extraction, pyramid, tracks
from vcjax.idt.trajectories import IdtSettings

_OWN, _CAMERA, _HEAD = (60, 220, 60), (235, 235, 235), (230, 30, 30)  # RGB


def draw(
    video: str | Path,
    target: str | Path,
    *,
    people: str | Path | None = None,
    matcher: str = "flow",
    settings: IdtSettings | None = None,
) -> None:
    """Write an mp4 of the video with its tracks.

    Green tracks move by themselves, white tracks move with the camera or not at all. Their current
    positions are red. A track is drawn once it has five steps.

    Args:
        video: Video file.
        target: The mp4 file to write.
        people: Box file, to exclude people from the estimate of camera motion.
        matcher: Point matches for this estimate, a key of `camera.MATCHERS`.
        settings: Constants of the method.
    """
    settings = settings or IdtSettings()
    motion = extraction.estimated(people, matcher, settings)
    rate = Fraction(videos.probe(video, decode=False).fps or 25).limit_denominator(1000)
    temporary = Path(target).with_suffix(".part")
    with av.open(temporary, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.pix_fmt = "yuv420p"
        for step in extraction.follow(video, motion, settings):
            picture = _picture(step, settings)
            if step.frame == 0:
                stream.height, stream.width = picture.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    os.replace(temporary, target)


def _picture(step: extraction.Step, settings: IdtSettings) -> UInt8[np.ndarray, "h w 3"]:
    picture = np.ascontiguousarray(step.picture)
    if picture.ndim == 2:
        picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB)
    for scale, level in zip(pyramid.scales(settings), step.live, strict=False):
        _draw_level(picture, level, scale, settings)
    height, width = (size // 2 * 2 for size in picture.shape[:2])  # yuv420p needs even sides
    return picture[:height, :width]


def _draw_level(
    picture: UInt8[np.ndarray, "h w 3"], level: tracks.Tracks, scale: float, settings: IdtSettings
) -> None:
    own = _moves(level, scale, settings)
    for chosen, color in ((~own, _CAMERA), (own, _OWN)):
        for track in np.flatnonzero(chosen & (level.age >= 5)):
            points = np.rint(level.points[track, : level.age[track] + 1] * scale).astype(np.int32)
            cv2.polylines(picture, [points], False, color, 1, cv2.LINE_AA)
            cv2.circle(picture, points[-1].tolist(), 1, _HEAD, -1)


def _moves(level: tracks.Tracks, scale: float, settings: IdtSettings) -> Bool[np.ndarray, " n"]:
    """Return a mask of the tracks with a step of their own that is long enough to be valid."""
    lengths = np.linalg.norm(level.steps * scale, axis=2).max(axis=1, initial=0)
    return lengths > settings.min_warped_step
