import numpy as np
import pytest

from vcjax.idt import detectors


def test_the_largest_stay():
    found = np.float32([[0, 0, 10, 10, 0.9], [5, 5, 45, 45, 0.4], [0, 0, 20, 20, 0.5]])
    np.testing.assert_array_equal(detectors.largest(found, 2), found[[1, 2]])
    assert len(detectors.largest(found, 5)) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("yolo", "no detector 'yolo'; use hog"),
        ("hog:file", "takes no file"),
        ("onnx", "needs a file"),
    ],
)
def test_other_names_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        detectors.create(name)
