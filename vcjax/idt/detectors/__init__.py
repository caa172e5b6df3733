"""Detectors of people, whose boxes are excluded from the camera's motion."""

from collections.abc import Callable

from vcjax.idt.detectors.interface import Detector


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
