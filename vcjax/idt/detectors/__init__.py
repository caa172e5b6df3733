"""People in frames, for the boxes whose motion is not the camera's."""

from collections.abc import Callable

from vcjax.idt.detectors.base import Detector


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
