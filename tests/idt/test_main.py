import argparse

import av
import numpy as np
import pytest

from vcjax.idt import __main__ as command
from vcjax.idt import storage


@pytest.fixture
def folder(tmp_path, moving_patch):
    """A folder of one video."""
    path = tmp_path / "videos" / "bounce" / "one.mkv"
    path.parent.mkdir(parents=True)
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 128, "gray"
        for frame in moving_patch[:18]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())
    return tmp_path / "videos"


def test_extract_writes_a_file_for_each_video(folder, tmp_path, capsys):
    out = tmp_path / "out"
    command.main(["extract", "--manifest", str(folder), "--out", str(out), "--num_workers", "1"])
    (path,) = out.iterdir()
    assert f"{storage.read(path).num_rows} trajectories of 1 videos" in capsys.readouterr().out


def test_parts_cover_every_video_once(folder):
    for name in ("two", "three", "four"):
        (folder / f"{name}.mkv").write_bytes((folder / "bounce" / "one.mkv").read_bytes())
    parts = [
        command._videos(argparse.Namespace(manifest=folder, shard=command.shard(f"{i}/3")))
        for i in (1, 2, 3)
    ]
    assert [list(part) for part in parts] == [["bounce/one", "two"], ["four"], ["three"]]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "-1/3"])
def test_parts_that_are_none_are_refused(text, capsys):
    with pytest.raises(SystemExit):
        command.main(["extract", "--manifest", "v", "--out", "o", f"--shard={text}"])
    assert "is not of the form I/N with I from 1 to N" in capsys.readouterr().err


def test_detect_and_extract_with_the_boxes(folder, tmp_path, capsys):
    boxes, out = str(tmp_path / "boxes"), str(tmp_path / "out")
    common = ["--manifest", str(folder), "--num_workers", "1"]
    command.main(["detect", *common, "--out", boxes])
    assert "frames of 1 videos" in capsys.readouterr().out
    assert len((tmp_path / "boxes" / "bounce" / "one.bb").read_text().splitlines()) == 18
    command.main(["extract", *common, "--out", out, "--people", boxes])
    assert "trajectories of 1 videos" in capsys.readouterr().out


def test_what_is_no_option_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["draw", "v.mp4", "o.mp4", "--runner=DirectRunner"])
    assert "unrecognized arguments: --runner=DirectRunner" in capsys.readouterr().err


def test_draw_colors_the_tracks(folder, tmp_path):
    command.main(["draw", str(folder / "bounce" / "one.mkv"), str(tmp_path / "tracks.mp4")])
    with av.open(tmp_path / "tracks.mp4") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 18 and frames[0].shape == (128, 160, 3)
    red, green, blue = frames[-1].astype(int).transpose(2, 0, 1)
    is_green = (green > red + 40) & (green > blue + 40)
    columns = np.nonzero(is_green)[1]
    assert len(columns) > 20 and np.median(np.abs(columns - 80)) < 25  # on the patch
    assert list(tmp_path.glob("*.part")) == []


def test_errors_are_one_line(tmp_path):
    with pytest.raises(SystemExit, match="vcjax.idt: .*no.mp4"):
        command.main(["draw", str(tmp_path / "no.mp4"), str(tmp_path / "tracks.mp4")])
