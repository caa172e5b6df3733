"""People in frames, for the boxes whose motion is not the camera's."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int, UInt8

Frame = UInt8[np.ndarray, "h w 3"]  # RGB
Detections = Float[np.ndarray, "n 5"]  # left, top, right, bottom in pixels of the frame; score


class Detector(Protocol):
    """Finds people; what its scores mean is its own affair, higher is surer."""

    def __call__(self, frame: Frame) -> Detections:
        """People on the frame whose scores reach the detector's threshold, in any order."""


def create(name: str, *, min_score: float | None = None) -> Detector:
    """The detector `hog`, `onnx:FILE`, `maskrcnn` or `maskrcnn:WEIGHTS`; None: its own threshold.

    Raises ValueError for another name, for a file that cannot be used, and for a library that is
    not installed.
    """
    kind, _, argument = name.partition(":")
    if kind not in _KINDS:
        raise ValueError(f"no detector {name!r}; use hog, onnx:FILE, maskrcnn or maskrcnn:WEIGHTS")
    return _KINDS[kind](argument, min_score)


def _hog(argument: str, min_score: float | None) -> Detector:
    from vcjax.idt.detectors import hog

    if argument:
        raise ValueError(f"the detector hog takes no file, and {argument!r} was given")
    return hog.HogDetector(hog.MIN_SCORE if min_score is None else min_score)


def _onnx(argument: str, min_score: float | None) -> Detector:
    from vcjax.idt.detectors import onnx

    if not argument:
        raise ValueError("the detector onnx needs a file: onnx:FILE")
    return onnx.OnnxDetector(argument, onnx.MIN_SCORE if min_score is None else min_score)


def _mask_rcnn(argument: str, min_score: float | None) -> Detector:
    from vcjax.idt.detectors import mask_rcnn

    model = mask_rcnn.load(argument or None)
    threshold = mask_rcnn.MIN_SCORE if min_score is None else min_score
    return mask_rcnn.MaskRcnnDetector(model, threshold)


_KINDS: dict[str, Callable[[str, float | None], Detector]] = {
    "hog": _hog,
    "onnx": _onnx,
    "maskrcnn": _mask_rcnn,
}


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
