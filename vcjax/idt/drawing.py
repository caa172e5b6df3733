"""A video of the tracks over the video, to see what is followed and what counts as the camera's."""

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
    """Writes an mp4: green tracks move by themselves, white ones with the camera or not at all.

    Heads are red. A track is drawn from its fifth frame on.
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
    for scale, level in zip(pyramid.scales(settings), step.going_on, strict=False):
        _draw_level(picture, level, scale, settings)
    height, width = (size // 2 * 2 for size in picture.shape[:2])  # as the encoder wants them
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
    """Which tracks have had a step of their own, as long as a valid track needs one."""
    lengths = np.linalg.norm(level.steps * scale, axis=2).max(axis=1, initial=0)
    return lengths > settings.min_warped_step
