"""Camera motion between two frames: point matches, homography, and frame stabilization.

Wang & Schmid 2013, Sec. 2.
"""

from collections.abc import Callable
from functools import partial
from math import ceil, floor
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numba import njit

from vcjax.idt import people, surf
from vcjax.idt.trajectories import IdtSettings

Grey = UInt8[np.ndarray, "h w"]
Homography = Float[
    np.ndarray, "3 3"
]  # maps points (x, y, 1) of the previous frame to the current one


class Pair(NamedTuple):
    """Two successive frames, the optical flow between them, and the boxes of people on each."""

    previous: Grey
    current: Grey
    flow: Float[np.ndarray, "2 h w"]
    previous_boxes: people.Boxes
    boxes: people.Boxes


Matches = tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2"]]
# A matcher is called with the successive frame pairs of one video, in order.
Matcher = Callable[[Pair], Matches]


def flow_matches(pair: Pair, settings: IdtSettings) -> Matches:
    """Return corners of the previous frame and their positions after the flow, both [n, 2].

    Corners that lie in a box of the current frame are left out.
    """
    corners = cv2.goodFeaturesToTrack(
        pair.previous,
        settings.num_corners,
        settings.corner_quality,
        settings.corner_distance,
        mask=_background(pair.boxes, pair.previous.shape),
    )
    if corners is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
    points = corners.reshape(-1, 2)
    x, y = np.rint(points).astype(int).T
    return points, points + pair.flow[:, y, x].T


class SurfMatcher:
    """Matcher by flow and SURF, which computes the SURF features of each frame once."""

    def __init__(self, settings: IdtSettings) -> None:
        self._settings = settings
        self._previous: surf.Features | None = None

    def __call__(self, pair: Pair) -> Matches:
        """Return the matches of the next pair: corners moved by the flow, then SURF points."""
        previous = self._previous
        if previous is None:
            free = _background(pair.previous_boxes, pair.previous.shape)
            previous = surf.features(pair.previous, free)
        current = surf.features(pair.current, _background(pair.boxes, pair.current.shape))
        self._previous = current
        both = flow_matches(pair, self._settings), surf.match(previous, current)
        return np.concatenate([m[0] for m in both]), np.concatenate([m[1] for m in both])


def _background(boxes: people.Boxes, shape: tuple[int, ...]) -> UInt8[np.ndarray, "h w"] | None:
    """Return a mask, 0 inside the boxes and 1 outside, or None if there are no boxes."""
    if not len(boxes):
        return None
    free = np.ones(shape, np.uint8)
    for left, top, right, bottom in boxes.tolist():
        free[ceil(top) : floor(bottom) + 1, ceil(left) : floor(right) + 1] = 0
    return free


# Factories of matchers, by the values of --matcher and of the setting idt.matcher.
MATCHERS: dict[str, Callable[[IdtSettings], Matcher]] = {
    "flow": lambda settings: partial(flow_matches, settings=settings),
    "surf": SurfMatcher,
}


def check_matcher(name: str) -> None:
    """Raise ValueError if `name` is not a key of `MATCHERS`."""
    if not isinstance(name, str) or name not in MATCHERS:
        raise ValueError(f"matcher is {name!r}; use {' or '.join(sorted(MATCHERS))}")


def matcher(name: str, settings: IdtSettings) -> Matcher:
    """Return a new matcher for one video.

    Raises:
        ValueError: If `name` is not a key of `MATCHERS`.
    """
    check_matcher(name)
    return MATCHERS[name](settings)


def homography(matches: Matches, settings: IdtSettings) -> Homography:
    """Return the homography of the background from previous to current points, by RANSAC.

    The identity is returned unless there are more than `min_matches` matches, of which more than
    `min_inliers` agree.
    """
    previous, current = matches
    if len(previous) <= settings.min_matches:
        return np.eye(3)
    motion, inliers = cv2.findHomography(previous, current, cv2.RANSAC, settings.ransac_threshold)
    if motion is None or np.count_nonzero(inliers) <= settings.min_inliers:
        return np.eye(3)
    return motion


def stabilize(previous: Grey, current: Grey, motion: Homography, settings: IdtSettings) -> Grey:
    """Return the current frame warped to the camera position of the previous frame.

    Pixels whose source lies within `warp_margin` pixels of the border, or outside the frame, are
    copied from the previous frame, so they show no motion.
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
