"""Speeded-up robust features (Bay et al. 2008): points, what is around them, who matches whom.

Rounding, sampling and weights are those of OpenCV 2.4, with which the published trajectories were
made; no OpenCV that pip installs has them.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from vcjax.idt.surf import description, keypoints, matching


class Features(NamedTuple):
    """Points of one frame and their descriptors."""

    points: Float[np.ndarray, "n 2"]  # (x, y)
    descriptors: Float[np.ndarray, "n 128"]  # unit L2 norm


def features(
    image: UInt8[np.ndarray, "h w"], free: UInt8[np.ndarray, "h w"] | None = None
) -> Features:
    """Blobs of all sizes, strongest first.

    Given `free`, 1 where they may be and 0 elsewhere, those whose pixel is 1, and at least half of
    the pixels that their size comes from.
    """
    sums = cv2.integral(image)
    found = keypoints.detect(sums, None if free is None else cv2.integral(free))
    if free is not None:
        x, y = (found[:, :2] + np.float32(0.5)).astype(int).T
        found = found[free[y, x] != 0]
    angles = description.orientations(sums, found)
    found, angles = found[angles >= 0], angles[angles >= 0]
    return Features(found[:, :2], description.describe(image, found, angles))


def match(
    previous: Features, current: Features
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2"]]:
    """Points of the current frame within reach of a previous one, each behind its nearest there."""
    nearest = matching.nearest(
        current.points, current.descriptors, previous.points, previous.descriptors
    )
    found = nearest >= 0
    return previous.points[nearest[found]], current.points[found]
