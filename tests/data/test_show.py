import numpy as np
import pytest
from PIL import Image

from vcjax.data.__main__ import main


def test_a_sheet_has_a_row_a_video_and_shows_its_augmented_frames(tmp_path, write_video, capsys):
    for i in range(3):
        write_video(tmp_path / "videos" / f"{i}.mp4", 12, phase=i)
    (tmp_path / "videos" / "broken.mp4").write_text("no video")
    out = tmp_path / "sheet.png"
    arguments = ["--num_frames=4", "--side=32", "--columns=4"]
    main(["show", str(tmp_path / "videos"), str(out), *arguments])
    printed = capsys.readouterr().out
    assert "3 clips" in printed and "broken.mp4: Invalid data" in printed
    sheet = np.asarray(Image.open(out)).astype(int)
    assert sheet.shape == (3 * 52 + 4, 5 * 36 + 4, 3)
    cut, first, second = (sheet[20:52, 4 + 36 * i : 36 + 36 * i] for i in range(3))
    # the cut frame is another picture than the same one augmented, the next moment a third
    assert abs(cut - first).mean() > 5 and abs(first - second).mean() > 5
    main(["show", str(tmp_path / "videos"), str(tmp_path / "again.png"), *arguments])
    assert (tmp_path / "again.png").read_bytes() == out.read_bytes()


def test_a_number_that_makes_no_sense_is_named(tmp_path):
    with pytest.raises(SystemExit, match="vcjax.data: --side is 0; it must be at least 1"):
        main(["show", str(tmp_path), str(tmp_path / "sheet.png"), "--side=0"])
