"""COCO detectors in ONNX files with one of two output formats; person is the first class.

The file has one input, [1, 3, height, width] float32, RGB. Its outputs have one of these formats:

levels   for each stride 8, 16, 32, ... scores [1, n, classes] in [0, 1], after the sigmoid, and
         distances [1, n, 4 * bins] from the center of a cell to left, top, right and bottom, in
         units of the stride, each as logits over 0, ..., bins - 1 (Li et al. 2020, Generalized
         Focal Loss); the n cells are in row-major order. The frame is resized to the input and
         normalized with ImageNet's mean and standard deviation. Models: PicoDet and NanoDet,
         exported without post-processing.
columns  one array [1, 4 + classes, n]: center x, center y, width and height in pixels of the
         input, then scores in [0, 1]. The frame keeps its aspect ratio at the top left of the
         input, with values in [0, 1]. Models: YOLOv8 and later, exported without NMS.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float

from vcjax.idt.detectors import interface
from vcjax.idt.detectors.interface import Detections, Frame

MIN_SCORE = 0.4  # probability
_MAX_OVERLAP = 0.6  # intersection over union of two people
_IMAGENET_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
_IMAGENET_STD = np.array([58.395, 57.12, 57.375], np.float32)
_GREY = 114  # padding of a frame that keeps its aspect ratio
_STRIDES = (4, 8, 16, 32, 64, 128)


class OnnxDetector:
    """Detector of people by onnxruntime, on one core, since videos are processed in parallel."""

    def __init__(self, path: str, min_score: float) -> None:
        self._min_score = min_score
        self._session = _session(path)
        inputs = self._session.get_inputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or shape[:2] != [1, 3] or not all(type(n) is int for n in shape[2:]):
            raise ValueError(
                f"{path}: inputs of shapes {[i.shape for i in inputs]}; "
                "export it with one input of a fixed size, [1, 3, height, width]"
            )
        self._input = inputs[0].name
        self._size = Size(*shape[2:])
        self._has_levels = has_levels([o.shape for o in self._session.get_outputs()], path)

    def __call__(self, frame: Frame) -> Detections:
        """Return the people on the frame; scores are probabilities."""
        picture, scale = (resized if self._has_levels else fitted)(frame, self._size)
        outputs = self._session.run(None, {self._input: picture[None]})
        read = read_levels if self._has_levels else read_columns
        boxes, scores = read(outputs, self._size)
        near = scores >= self._min_score
        boxes, scores = boxes[near] / np.tile(scale, 2), scores[near]
        sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        return np.column_stack([boxes, scores])[interface.distinct(sides, scores, _MAX_OVERLAP)]


class Size(NamedTuple):
    """Size of the detector's input in pixels."""

    height: int
    width: int


Boxes = Float[np.ndarray, "n 4"]  # left, top, right, bottom in pixels of the input
Scale = Float[np.ndarray, "2"]  # pixels of the input per pixel of the frame, along x and y


def resized(frame: Frame, size: Size) -> tuple[Float[np.ndarray, "3 h w"], Scale]:
    """Return the frame stretched to the input, with ImageNet's normalization, and its scale."""
    picture = cv2.resize(frame, (size.width, size.height), interpolation=cv2.INTER_LINEAR)
    scale = np.array([size.width / frame.shape[1], size.height / frame.shape[0]], np.float32)
    return ((picture - _IMAGENET_MEAN) / _IMAGENET_STD).transpose(2, 0, 1), scale


def fitted(frame: Frame, size: Size) -> tuple[Float[np.ndarray, "3 h w"], Scale]:
    """Return the frame at the top left of the input, as large as fits, in [0, 1], and its scale."""
    scale = min(size.height / frame.shape[0], size.width / frame.shape[1])
    height, width = (round(side * scale) for side in frame.shape[:2])
    picture = np.full((*size, 3), _GREY, np.uint8)
    cv2.resize(frame, (width, height), dst=picture[:height, :width])
    scaled = picture.transpose(2, 0, 1).astype(np.float32) / 255
    return scaled, np.array([scale, scale], np.float32)


def has_levels(shapes: Sequence[Sequence[int | str]], path: str) -> bool:
    """Return True for outputs in the format levels, False for columns.

    Raises:
        ValueError: If the shapes match neither format; the message contains `path`.
    """
    if len(shapes) > 1 and len(shapes) % 2 == 0 and all(len(shape) == 3 for shape in shapes):
        return True
    if len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][1] in range(5, 1000):
        return False
    raise ValueError(
        f"{path}: outputs of shapes {[list(shape) for shape in shapes]} are not supported; export "
        "PicoDet or NanoDet without post-processing ([1, n, classes] and [1, n, 4 * bins] for each "
        "stride), or YOLOv8 or later without NMS ([1, 4 + classes, n])"
    )


def read_levels(outputs: Sequence[np.ndarray], size: Size) -> tuple[Boxes, Float[np.ndarray, " n"]]:
    """Return boxes and person scores of all cells; `outputs` are all scores, then all distances."""
    half = len(outputs) // 2
    levels = zip(outputs[:half], outputs[half:], strict=True)
    boxes = [_level_boxes(distances[0], size) for _, distances in levels]
    scores = [level[0, :, 0] for level in outputs[:half]]
    return np.concatenate(boxes), np.concatenate(scores)


def _level_boxes(logits: Float[np.ndarray, "n bins4"], size: Size) -> Boxes:
    stride = _stride(len(logits), size)
    logits = logits.reshape(len(logits), 4, -1)
    weights = np.exp(logits - logits.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    left, top, right, bottom = (weights @ np.arange(weights.shape[2], dtype=np.float32)).T * stride
    cell = np.arange(len(logits))
    columns = -(-size.width // stride)
    x, y = (cell % columns + 0.5) * stride, (cell // columns + 0.5) * stride
    return np.stack([x - left, y - top, x + right, y + bottom], axis=1).astype(np.float32)


def _stride(num_cells: int, size: Size) -> int:
    for stride in _STRIDES:
        if num_cells == -(-size.height // stride) * -(-size.width // stride):
            return stride
    raise ValueError(
        f"{num_cells} cells match no stride of {_STRIDES} for an input of {tuple(size)}; "
        "export the detector without post-processing"
    )


def read_columns(
    outputs: Sequence[np.ndarray], size: Size
) -> tuple[Boxes, Float[np.ndarray, " n"]]:
    """Return boxes and person scores of all columns."""
    x, y, width, height, person = outputs[0][0, :5]
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return np.stack(corners, axis=1), person


def _session(path: str):  # type: ignore[no-untyped-def]  # of onnxruntime, which is optional
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            "the detector onnx needs onnxruntime: pip install 'vcjax[onnx]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has an exception class for each status
        raise ValueError(f"{path}: not a readable ONNX file: {error}") from error
