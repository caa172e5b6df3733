import numpy as np
import pytest

from vcjax.idt import people


def test_boxes_by_line(tmp_path):
    path = tmp_path / "v.bb"
    path.write_text("0 1 2 30 40 0.9\n1\n2 5 6 7 8 0.5 9 10 11 12 0.4\n")
    first, second, third = people.read(path)
    np.testing.assert_array_equal(first, [[1, 2, 30, 40]])
    assert second.shape == (0, 4)
    np.testing.assert_array_equal(third, [[5, 6, 7, 8], [9, 10, 11, 12]])


@pytest.mark.parametrize("line", ["1 2 3", "1 2 3 x 5 6", "", "1 2 3 4 nan 6", "1 30 2 3 40 0.9"])
def test_a_malformed_line_is_named(tmp_path, line):
    path = tmp_path / "v.bb"
    path.write_text(f"0\n{line}\n")
    with pytest.raises(ValueError, match=r"v\.bb:2: "):
        people.read(path)


def test_boxes_are_clipped_to_the_frame():
    boxes = np.array([[-5, -5, 1000, 50], [400, 300, 500, 400]], np.float32)
    clipped = people.clip(boxes, 240, 320)
    np.testing.assert_array_equal(clipped, [[0, 0, 319, 50]])


def test_too_few_lines_are_an_error():
    with pytest.raises(ValueError, match="v.bb: boxes for 2 frames"):
        people.of_frame([people.NO_BOXES] * 2, 2, "v.bb")


def test_what_is_no_text_is_named(tmp_path):
    (tmp_path / "v.bb").write_bytes(b"\xff\x00")
    with pytest.raises(ValueError, match=r"v\.bb: not a box file"):
        people.read(tmp_path / "v.bb")


def test_lines_count_and_not_frame_numbers(tmp_path, caplog):
    (tmp_path / "v.bb").write_text("7 1 2 30 40 0.9\n9\n")
    assert [len(boxes) for boxes in people.read(tmp_path / "v.bb")] == [1, 0]
    assert "not consecutive" in caplog.text


def test_ids_may_hold_subfolders(tmp_path):
    assert people.path_of(tmp_path, "a/b.c") == tmp_path / "a" / "b.c.bb"


@pytest.mark.parametrize("video_id", ["../a", "a/../../b", "/etc/a", "..", ".", ""])
def test_ids_that_leave_the_folder_are_refused(tmp_path, video_id):
    with pytest.raises(ValueError, match="outside"):
        people.path_of(tmp_path, video_id)
