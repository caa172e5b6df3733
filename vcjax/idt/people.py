"""Boxes of people, excluded from the camera's motion (Wang & Schmid 2013, Sec. 2.2)."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from vcjax.runtime import checks

log = logging.getLogger(__name__)

Boxes = Float[np.ndarray, "n 4"]  # left, top, right, bottom in pixels of the video

NO_BOXES: Boxes = np.zeros((0, 4), np.float32)


def path_of(directory: Path, video_id: str) -> Path:
    """Return the path of a video's box file, `directory/VIDEO_ID.bb`.

    An id may contain subfolders.

    Raises:
        ValueError: If the path is outside `directory`.
    """
    relative = os.path.normpath(video_id)
    if os.path.isabs(relative) or relative.split(os.sep)[0] in (os.pardir, os.curdir):
        raise ValueError(
            f"video id {video_id!r}: its box file would be outside {directory}; "
            "change the video_id in the manifest"
        )
    return directory / f"{relative}.bb"


@checks.arguments
def read(path: str | Path) -> list[Boxes]:
    """Return the boxes of each frame, from lines `frame (left top right bottom score)*`.

    The n-th line is the n-th frame, whatever its number `frame` is.

    Raises:
        ValueError: If a line has another format; the message contains its number.
    """
    try:
        lines = Path(path).read_text("ascii").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a box file, since it is not ASCII text") from None
    rows = [_row(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]
    if any(row[0] != rows[0][0] + i for i, row in enumerate(rows)):
        log.warning("%s: frame numbers are not consecutive; boxes are assigned by line", path)
    return [_corners(row) for row in rows]


def parse_line(line: str) -> Boxes:
    """Return the boxes of one line of a box file."""
    return _corners(_row(line, "box"))


def _corners(row: Float[np.ndarray, " values"]) -> Boxes:
    return row[1:].reshape(-1, 5)[:, :4].astype(np.float32)


def _row(line: str, where: str) -> Float[np.ndarray, " values"]:
    try:
        values = np.array(line.split(), np.float64)
    except ValueError:
        raise ValueError(f"{where}: invalid number in {line[:80]!r}") from None
    if len(values) % 5 != 1 or not np.isfinite(values).all():
        raise ValueError(
            f"{where}: {len(values)} values; a line is the frame number and, for each person, "
            "left, top, right, bottom and score, all finite"
        )
    left, top, right, bottom, _ = values[1:].reshape(-1, 5).T
    if (left > right).any() or (top > bottom).any():
        raise ValueError(
            f"{where}: left > right or top > bottom; a box is left, top, right, bottom"
        )
    return values


def clip(boxes: Boxes, height: int, width: int) -> Boxes:
    """Return the boxes clipped to a frame, without boxes outside it."""
    left, top, right, bottom = boxes.T
    inside = (left < width) & (top < height) & (right >= 0) & (bottom >= 0)
    return np.clip(boxes[inside], 0, np.array([width, height, width, height], np.float32) - 1)


def of_frame(boxes: Sequence[Boxes], frame: int, name: str) -> Boxes:
    """Return the boxes of one frame, counted from 0; `name` identifies their source in errors.

    Raises:
        ValueError: If there are no boxes for this frame, or if they are no finite array [n, 4].
    """
    if frame >= len(boxes):
        raise ValueError(
            f"{name}: boxes for {len(boxes)} frames, but the video is longer; "
            "write a line for each frame, including frames without people"
        )
    checks.array(f"{name}: boxes of frame {frame}", boxes[frame], "n sides", sides=4)
    checks.finite(f"{name}: boxes of frame {frame}", boxes[frame])
    return boxes[frame]
