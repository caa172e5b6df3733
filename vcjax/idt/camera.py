"""Camera motion between two frames: matches, homography, the second frame without it.

Wang & Schmid 2013, Sec. 2.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numba import njit

from vcjax.idt import people
from vcjax.idt.trajectories import IdtSettings

Grey = UInt8[np.ndarray, "h w"]
Homography = Float[np.ndarray, "3 3"]  # maps points (x, y, 1) of the previous frame


class Pair(NamedTuple):
    """Two successive frames, the motion between them, and where people are on the second."""

    previous: Grey
    current: Grey
    flow: Float[np.ndarray, "2 h w"]
    boxes: people.Boxes


Matches = tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2"]]


def flow_matches(pair: Pair, settings: IdtSettings) -> Matches:
    """Corners of the previous frame, and where the flow takes them. None of them on people."""
    corners = cv2.goodFeaturesToTrack(
        pair.previous, settings.num_corners, settings.corner_quality, settings.corner_distance
    )
    if corners is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
    points = corners.reshape(-1, 2)
    points = points[~people.covers(pair.boxes, points)]
    x, y = np.rint(points).astype(int).T
    return points, points + pair.flow[:, y, x].T


# What finds point matches, by the name that the settings use.
MATCHERS: dict[str, Callable[[Pair, IdtSettings], Matches]] = {"flow": flow_matches}


def matcher(name: str) -> Callable[[Pair, IdtSettings], Matches]:
    """The matcher of that name. Raises ValueError naming those there are."""
    if name not in MATCHERS:
        raise ValueError(f"no matcher {name!r}; use one of {sorted(MATCHERS)}")
    return MATCHERS[name]


def homography(matches: Matches, settings: IdtSettings) -> Homography:
    """The motion of the background from previous to current; identity if too few points agree."""
    previous, current = matches
    if len(previous) <= settings.min_matches:
        return np.eye(3)
    found, inliers = cv2.findHomography(previous, current, cv2.RANSAC, settings.ransac_threshold)
    if found is None or np.count_nonzero(inliers) <= settings.min_inliers:
        return np.eye(3)
    return found


def stabilize(previous: Grey, current: Grey, motion: Homography, settings: IdtSettings) -> Grey:
    """The current frame as the camera would have seen it from where it was before.

    What comes from within `warp_margin` of the border, or beyond, is the previous frame's, which
    thus does not move.
    """
    height, width = current.shape
    warped = cv2.warpPerspective(
        current, motion, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    _fill_margin(warped, previous, np.ascontiguousarray(motion, np.float64), settings.warp_margin)
    return warped


@njit(cache=True, error_model="numpy")
def _fill_margin(warped: Grey, previous: Grey, motion: Homography, margin: int) -> None:
    height, width = warped.shape
    for y in range(height):
        for x in range(width):
            depth = motion[2, 0] * x + motion[2, 1] * y + motion[2, 2]
            source_x = (motion[0, 0] * x + motion[0, 1] * y + motion[0, 2]) / depth
            source_y = (motion[1, 0] * x + motion[1, 1] * y + motion[1, 2]) / depth
            inside_x = margin < source_x and source_x < width - 1 - margin
            inside_y = margin < source_y and source_y < height - 1 - margin
            if not (inside_x and inside_y):
                warped[y, x] = previous[y, x]
