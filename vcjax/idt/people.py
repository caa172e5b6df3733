"""Boxes around people, whose motion is not the camera's (Wang & Schmid 2013, Sec. 2.2)."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

log = logging.getLogger(__name__)

Boxes = Float[np.ndarray, "n 4"]  # left, top, right, bottom in pixels of the video

NO_BOXES: Boxes = np.zeros((0, 4), np.float32)


def path_of(directory: Path, video_id: str) -> Path:
    """Where the video's box file is: `directory/VIDEO_ID.bb`, an id may hold subfolders.

    Raises ValueError for an id that leaves the directory.
    """
    relative = os.path.normpath(video_id)
    if os.path.isabs(relative) or relative.split(os.sep)[0] in (os.pardir, os.curdir):
        raise ValueError(
            f"video id {video_id!r}: its box file would lie outside {directory}; "
            "give the video another video_id"
        )
    return directory / f"{relative}.bb"


def read(path: str | Path) -> list[Boxes]:
    """Boxes of each frame, from lines `frame (left top right bottom score)*`, one a frame.

    The number of the line counts, not `frame`. Raises ValueError naming the line that does not
    read so.
    """
    try:
        lines = Path(path).read_text("ascii").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a box file, it is no text") from None
    rows = [_row(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]
    if any(row[0] != rows[0][0] + i for i, row in enumerate(rows)):
        log.warning("%s: frame numbers do not count up; boxes are taken line by line", path)
    return [row[1:].reshape(-1, 5)[:, :4].astype(np.float32) for row in rows]


def _row(line: str, where: str) -> Float[np.ndarray, " values"]:
    try:
        values = np.array(line.split(), np.float64)
    except ValueError:
        raise ValueError(f"{where}: not a number in {line[:80]!r}") from None
    if len(values) % 5 != 1 or not np.isfinite(values).all():
        raise ValueError(
            f"{where}: {len(values)} numbers; a line is the frame's number and, for each person, "
            "left, top, right, bottom and score"
        )
    left, top, right, bottom, _ = values[1:].reshape(-1, 5).T
    if (left > right).any() or (top > bottom).any():
        raise ValueError(f"{where}: a box ends before it begins; it is left, top, right, bottom")
    return values


def clip(boxes: Boxes, height: int, width: int) -> Boxes:
    """The boxes within a frame, without those that lie outside."""
    left, top, right, bottom = boxes.T
    inside = (left < width) & (top < height) & (right >= 0) & (bottom >= 0)
    return np.clip(boxes[inside], 0, np.array([width, height, width, height], np.float32) - 1)


def of_frame(boxes: Sequence[Boxes], frame: int, name: str) -> Boxes:
    """Boxes of one frame, from 0. Raises ValueError if the boxes end before."""
    if frame >= len(boxes):
        raise ValueError(
            f"{name}: boxes for {len(boxes)} frames, and the video has more; "
            "write a line for each frame, also for one without people"
        )
    return boxes[frame]
