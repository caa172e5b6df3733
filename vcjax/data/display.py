"""Frames as a player shows them: in RGB, and turned and mirrored by the display matrix."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from jaxtyping import UInt8

Frame = UInt8[np.ndarray, "h w 3"]


class Decoded(NamedTuple):
    """A decoded frame and the linear part of its display matrix: a, b, c, d."""

    frame: av.VideoFrame
    matrix: tuple[int, int, int, int]  # (x, y) is shown at (a x + c y, b x + d y)


def decoded(frames: Iterable[av.VideoFrame]) -> Iterator[Decoded]:
    """Yield the frames with the display matrix of the first frame.

    In a stream without container, a message before each key frame states the matrix, so the first
    frame has to be a key frame.
    """
    matrix = None
    for frame in frames:
        matrix = matrix or _display(frame)
        yield Decoded(frame, matrix)


def picture(shown: Decoded) -> Frame:
    """Return a frame in RGB, turned and mirrored as its matrix states."""
    # More than 8 bits are interpolated as by the program ffmpeg, by default bilinearly.
    is_deep = shown.frame.format.components[0].bits > 8
    interpolation = "BICUBIC" if is_deep else None
    # For a small frame, starting threads costs more than the conversion.
    rgb = shown.frame.to_ndarray(format="rgb24", threads=1, interpolation=interpolation)
    a, b, c, d = shown.matrix
    if abs(b) > abs(a):
        rgb, across, down = rgb.swapaxes(0, 1), c, b
    else:
        across, down = a, d
    rgb = rgb[:, ::-1] if across < 0 else rgb
    return np.ascontiguousarray(rgb[::-1] if down < 0 else rgb)


def _display(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """Return the linear part of the display matrix (ISO 14496-12, 8.3.2)."""
    try:
        # `frame.side_data` refers to its frame, which stays in memory until a garbage collection.
        side_data: Any = SideDataContainer
        matrix = side_data(frame).get("DISPLAYMATRIX")
    except ValueError:  # side data of a type that PyAV cannot name
        turns = round(frame.rotation / 90) % 4  # counterclockwise
        return ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))[turns]
    if matrix is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32).tolist()
    return a, b, c, d
