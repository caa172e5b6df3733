from itertools import islice

import numpy as np
import pytest

from vcjax.data import video
from vcjax.idt import detectors
from vcjax.idt.detectors import onnx

SIZE = onnx.Size(32, 64)


def test_levels_are_distances_from_the_centers_of_cells():
    scores = np.zeros((1, 8, 2), np.float32)
    scores[0, 6] = 0.7, 0.9  # third cell of the second row, at (40, 24) for a stride of 16
    logits = np.full((1, 8, 4, 8), -100, np.float32)
    for side, bin_ in enumerate((1, 0, 2, 3)):
        logits[0, 6, side, bin_] = 100
    logits[0, 6, 2, 1] = 100  # half 1, half 2
    boxes, person_scores = onnx.read_levels([scores, logits.reshape(1, 8, 32)], SIZE)
    np.testing.assert_allclose(person_scores[6], 0.7)  # of a person, not of the other class
    np.testing.assert_allclose(boxes[6], [40 - 16, 24, 40 + 24, 24 + 48])


def test_columns_are_centers_and_sides():
    output = np.zeros((1, 6, 3), np.float32)
    output[0, :, 1] = 30, 20, 10, 8, 0.6, 0.9
    boxes, scores = onnx.read_columns([output], SIZE)
    np.testing.assert_allclose(boxes[1], [25, 16, 35, 24])
    np.testing.assert_allclose(scores, [0, 0.6, 0])


def test_a_frame_keeps_its_shape_or_fills_the_input():
    frame = np.full((100, 100, 3), 255, np.uint8)
    picture, scale = onnx.fitted(frame, SIZE)
    np.testing.assert_allclose(scale, 0.32)
    np.testing.assert_allclose(picture[:, :, :32], 1)
    np.testing.assert_allclose(picture[:, :, 32:], 114 / 255)
    picture, scale = onnx.resized(frame, SIZE)
    np.testing.assert_allclose(scale, [0.64, 0.32])
    np.testing.assert_allclose(
        picture[:, 5, 60], (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225], rtol=1e-5
    )


def test_the_form_is_told_from_the_shapes():
    assert onnx.has_levels([[1, 2704, 80], [1, 676, 80], [1, 2704, 32], [1, 676, 32]], "f")
    assert not onnx.has_levels([[1, 84, 8400]], "f")
    with pytest.raises(ValueError, match=r"f: outputs of shapes \[\[1, 100, 6\], \[1\]\]"):
        onnx.has_levels([[1, 100, 6], [1]], "f")


def test_cells_of_no_stride_are_an_error():
    scores, distances = np.zeros((1, 7, 2), np.float32), np.zeros((1, 7, 32), np.float32)
    with pytest.raises(ValueError, match="7 cells match no stride"):
        onnx.read_levels([scores, distances], SIZE)


def test_what_is_no_onnx_file_is_named(tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "d.onnx").write_text("no network")
    with pytest.raises(ValueError, match=r"d\.onnx: not a readable ONNX file"):
        detectors.create(f"onnx:{tmp_path / 'd.onnx'}")


def test_two_people_in_a_car_park_are_found_and_nothing_else(shared):
    pytest.importorskip("onnxruntime")
    detector = detectors.create(f"onnx:{shared / 'detectors' / 'picodet_s_416_coco.onnx'}")
    path = shared / "videos" / "interactions" / "set1_seq01_00_Punching.mp4"
    frame = next(islice(video.frames(path), 20, None))
    detections = detector(frame)
    detections = detections[np.argsort(detections[:, 0])]
    # verified by eye: both are upright, over nearly all of the frame's height
    np.testing.assert_allclose(detections[:, :4], [[64, 16, 122, 224], [263, 12, 315, 221]], atol=6)
    strict = detectors.create(
        f"onnx:{shared / 'detectors' / 'picodet_s_416_coco.onnx'}", min_score=0.99
    )
    assert strict(frame).shape == (0, 5)
