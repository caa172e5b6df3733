import numpy as np
import pytest

from vcjax.idt import detectors
from vcjax.idt.detectors import interface


def test_the_largest_stay():
    detections = np.float32([[0, 0, 10, 10, 0.9], [5, 5, 45, 45, 0.4], [0, 0, 20, 20, 0.5]])
    np.testing.assert_array_equal(interface.largest(detections, 2), detections[[1, 2]])
    assert len(interface.largest(detections, 5)) == 3


def test_of_boxes_that_overlap_the_surest_stays():
    sides = np.float32([[0, 0, 10, 10], [1, 0, 10, 10], [30, 0, 10, 10], [0, 5, 10, 10]])
    scores = np.float32([-0.5, 0.2, -1.0, -0.7])  # the last overlaps the second by 0.29
    assert interface.distinct(sides, scores, 0.5).tolist() == [1, 3, 2]
    assert interface.distinct(sides, scores, 0.2).tolist() == [1, 2]
    assert interface.distinct(sides[:0], scores[:0], 0.5).tolist() == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("yolo", "unknown detector 'yolo'; use hog"),
        ("hog:file", "takes no file"),
        ("onnx", "needs a file"),
    ],
)
def test_other_names_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        detectors.create(name)
