"""Boxes around people, whose motion is not the camera's (Wang & Schmid 2013, Sec. 2.2)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

Boxes = Float[np.ndarray, "n 4"]  # left, top, right, bottom in pixels of the video

NO_BOXES: Boxes = np.zeros((0, 4), np.float32)


def read(path: str | Path) -> list[Boxes]:
    """Boxes of each frame, from lines `frame (left top right bottom score)*`, one a frame.

    Raises ValueError naming the line that does not read so.
    """
    lines = Path(path).read_text().splitlines()
    return [_boxes(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]


def _boxes(line: str, where: str) -> Boxes:
    try:
        values = np.array(line.split(), np.float64)
    except ValueError:
        raise ValueError(f"{where}: not a number in {line[:80]!r}") from None
    if len(values) % 5 != 1 or not np.isfinite(values).all():
        raise ValueError(
            f"{where}: {len(values)} numbers; a line is the frame's number and, for each person, "
            "left, top, right, bottom and score"
        )
    return values[1:].reshape(-1, 5)[:, :4].astype(np.float32)


def clip(boxes: Boxes, height: int, width: int) -> Boxes:
    """The boxes within a frame; one that lies outside is empty and covers nothing."""
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32) - 1)


def covers(boxes: Boxes, points: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
    """Which of the points (x, y) are in one of the boxes."""
    x, y = points[:, :1], points[:, 1:]
    left, top, right, bottom = boxes.T
    return ((left <= x) & (x <= right) & (top <= y) & (y <= bottom)).any(axis=1)


def of_frame(boxes: Sequence[Boxes], frame: int, name: str) -> Boxes:
    """Boxes of one frame, from 0. Raises ValueError if the boxes end before."""
    if frame >= len(boxes):
        raise ValueError(
            f"{name}: boxes for {len(boxes)} frames, and the video has more; "
            "write a line for each frame, also for one without people"
        )
    return boxes[frame]
