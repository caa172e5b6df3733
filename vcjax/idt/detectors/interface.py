"""The interface of a detector of people, and functions that several detectors share."""

from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int, UInt8

Frame = UInt8[np.ndarray, "h w 3"]  # RGB
Detections = Float[np.ndarray, "n 5"]  # left, top, right, bottom in pixels of the frame; score


class Detector(Protocol):
    """A detector of people; a higher score is surer, on a scale that depends on the detector."""

    def __call__(self, frame: Frame) -> Detections:
        """Return the people on the frame whose scores reach the threshold, in any order."""


def largest(detections: Detections, count: int) -> Detections:
    """Return the `count` largest detections by area; ties are broken by the lower index."""
    area = (detections[:, 2] - detections[:, 0]) * (detections[:, 3] - detections[:, 1])
    return detections[np.argsort(-area, kind="stable")[:count]]


def distinct(sides: Any, scores: Float[np.ndarray, " n"], overlap: float) -> Int[np.ndarray, " k"]:
    """Return the indices of the boxes after non-maximum suppression, highest score first.

    A box (left, top, width, height) is dropped if its intersection over union with a kept box of a
    higher score exceeds `overlap`.
    """
    import cv2

    above_zero = scores - scores.min(initial=0) + 1  # required by OpenCV; keeps the order
    return np.asarray(cv2.dnn.NMSBoxes(sides, above_zero.tolist(), 0, overlap), int)
