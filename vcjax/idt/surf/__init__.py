"""Speeded-up robust features (Bay et al. 2008): keypoints, their descriptors, and matches.

Rounding, sampling and weights follow OpenCV 2.4, which the published trajectories were made with;
OpenCV packages on PyPI do not contain SURF.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from vcjax.idt.surf import description, keypoints, matching


class Features(NamedTuple):
    """Keypoints of one frame and their descriptors."""

    points: Float[np.ndarray, "n 2"]  # (x, y)
    descriptors: Float[np.ndarray, "n 128"]  # unit L2 norm


def features(
    image: UInt8[np.ndarray, "h w"], free: UInt8[np.ndarray, "h w"] | None = None
) -> Features:
    """Return the blobs of all sizes, strongest first.

    If a mask `free` (0 or 1) is given, a blob is kept only if the mask is 1 at its position and on
    at least half of the pixels under its filter.
    """
    sums = cv2.integral(image)
    blobs = keypoints.detect(sums, None if free is None else cv2.integral(free))
    if free is not None:
        x, y = (blobs[:, :2] + np.float32(0.5)).astype(int).T
        blobs = blobs[free[y, x] != 0]
    angles = description.orientations(sums, blobs)
    blobs, angles = blobs[angles >= 0], angles[angles >= 0]
    return Features(blobs[:, :2], description.describe(image, blobs, angles))


def match(
    previous: Features, current: Features
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2"]]:
    """Return matching points of the previous and the current frame, one row for each match."""
    nearest = matching.nearest(
        current.points, current.descriptors, previous.points, previous.descriptors
    )
    has_match = nearest >= 0
    return previous.points[nearest[has_match]], current.points[has_match]
