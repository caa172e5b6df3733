"""What a detector of people is, and what several of them need."""

from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int, UInt8

Frame = UInt8[np.ndarray, "h w 3"]  # RGB
Detections = Float[np.ndarray, "n 5"]  # left, top, right, bottom in pixels of the frame; score


class Detector(Protocol):
    """Finds people; what its scores mean is its own affair, higher is surer."""

    def __call__(self, frame: Frame) -> Detections:
        """People on the frame whose scores reach the detector's threshold, in any order."""


def largest(found: Detections, count: int) -> Detections:
    """The `count` largest, by area; of equals those that come first."""
    area = (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
    return found[np.argsort(-area, kind="stable")[:count]]


def distinct(sides: Any, scores: Float[np.ndarray, " n"], overlap: float) -> Int[np.ndarray, " k"]:
    """Which of the boxes left, top, width, height stay, surest first (non-maximum suppression).

    Those do that overlap none surer by more than `overlap`, intersection over union.
    """
    import cv2

    above_zero = scores - scores.min(initial=0) + 1  # which is asked for; the order stays
    return np.asarray(cv2.dnn.NMSBoxes(sides, above_zero.tolist(), 0, overlap), int)
