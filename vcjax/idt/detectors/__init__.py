"""Detectors of people, whose boxes are excluded from the camera's motion."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int, UInt8

Frame = UInt8[np.ndarray, "h w 3"]  # RGB
Detections = Float[np.ndarray, "n 5"]  # left, top, right, bottom in pixels of the frame; score


class Detector(Protocol):
    """A detector of people; a higher score is surer, on a scale that depends on the detector."""

    def __call__(self, frame: Frame) -> Detections:
        """Return the people on the frame whose scores reach the threshold, in any order."""


def create(name: str, *, min_score: float | None = None) -> Detector:
    """Return the detector `hog`, `onnx:FILE`, `maskrcnn` or `maskrcnn:WEIGHTS`.

    If `min_score` is None, the default threshold of the detector is used.

    Raises:
        ValueError: If the name is invalid, its file is unusable, or a library is not installed.
    """
    kind, _, argument = name.partition(":")
    if kind not in _KINDS:
        raise ValueError(
            f"unknown detector {name!r}; use hog, onnx:FILE, maskrcnn or maskrcnn:WEIGHTS"
        )
    return _KINDS[kind](argument, min_score)


def _hog(argument: str, min_score: float | None) -> Detector:
    from vcjax.idt.detectors import hog

    if argument:
        raise ValueError(f"the detector hog takes no file; use hog in place of hog:{argument}")
    return hog.HogDetector(hog.MIN_SCORE if min_score is None else min_score)


def _onnx(argument: str, min_score: float | None) -> Detector:
    from vcjax.idt.detectors import onnx

    if not argument:
        raise ValueError("the detector onnx needs a file; use onnx:FILE")
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
