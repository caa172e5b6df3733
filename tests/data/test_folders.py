"""A folder is the same collection for the reader of manifests and for `scan`."""

import logging
import os
import subprocess
import sys

import pytest

from vcjax.data import folders, manifest, splits, video
from vcjax.data.__main__ import main
from vcjax.data.manifest import ManifestError


def tree(folder, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def scanned(folder, tmp_path):
    main(["scan", str(folder), f"--out={tmp_path / 'scanned.tsv'}"])
    return manifest.read(tmp_path / "scanned.tsv")


@pytest.mark.parametrize(
    "names, expected",
    [
        ("run/1 jump/2", {"run/1": ("run", ""), "jump/2": ("jump", "")}),
        ("train/run/1 val/run/2", {"train/run/1": ("run", "train"), "val/run/2": ("run", "test")}),
        ("training/1 valid/2 testing/3 validation/4",
         {"training/1": ("", "train"), "valid/2": ("", "test"), "testing/3": ("", "test"),
          "validation/4": ("", "test")}),
        ("Train/a/1 VAL/a/2", {"Train/a/1": ("a", "train"), "VAL/a/2": ("a", "test")}),
        ("run/train/1 run/test/2",
         {"run/train/1": ("run", "train"), "run/test/2": ("run", "test")}),
        ("k400/train/a/1 k400/val/a/2",
         {"k400/train/a/1": ("a", "train"), "k400/val/a/2": ("a", "test")}),
        ("train/test/1 val/test/2",
         {"train/test/1": ("test", "train"), "val/test/2": ("test", "test")}),
        ("val/a/1 val/b/2", {"val/a/1": ("a", "test"), "val/b/2": ("b", "test")}),
        ("train/1 bus/2 car/3",
         {"train/1": ("train", ""), "bus/2": ("bus", ""), "car/3": ("car", "")}),
        ("train/1 val/2 extra/3",
         {"train/1": ("", "train"), "val/2": ("", "test"), "extra/3": ("extra", "")}),
    ],
)  # fmt: skip
def test_folders_divide_a_collection_for_every_reader(tmp_path, names, expected):
    folder = tree(tmp_path / "videos", [f"{name}.mp4" for name in names.split()])
    read = manifest.read(folder)
    entries = zip(read.labels["class"], read.split, strict=True)
    assert dict(zip(read.video_ids, entries, strict=True)) == expected
    assert scanned(folder, tmp_path) == read


@pytest.mark.parametrize("name", ["videos", "./videos/", "../test/videos", "."])
def test_a_relative_folder_is_the_same_collection(tmp_path, monkeypatch, name):
    folder = tree(tmp_path / "test" / "videos", ["run/1.mp4", "jump/2.mp4"])
    monkeypatch.chdir(folder if name == "." else folder.parent)
    assert manifest.read(name) == manifest.read(folder) == scanned(name, tmp_path)
    assert manifest.read(name).video_ids == ("jump/2", "run/1")
    assert manifest.read(name).split == ("", "")


def test_a_table_without_a_split_is_divided_by_the_folders_of_its_paths(tmp_path):
    table = tmp_path / "test" / "videos.tsv"  # a folder above all videos does not count
    table.parent.mkdir()
    table.write_text("path\nk/train/1.mp4\nk/val/2.mp4\n")
    assert manifest.read(table).split == ("train", "test")
    table.write_text("path\tsplit\nk/train/1.mp4\ttest\nk/val/2.mp4\ttrain\n")
    assert manifest.read(table).split == ("test", "train")


@pytest.mark.parametrize(
    "names, message",
    [
        (["train/1.mp4", "val/2.mp4", "extra/3.mp4"], "1 of 3 .* no split.*extra/3.mp4; move them"),
        (["val/1.mp4", "test/2.mp4"], "all 2 videos are held out, first .*test/2.mp4"),
    ],
)
def test_no_video_outside_of_the_training_folder_is_trained_on(tmp_path, names, message):
    read = manifest.read(tree(tmp_path, names))
    with pytest.raises(ManifestError, match=message):
        splits.assign_split(read, group="", holdout=0.5, seed=0)


def test_whatever_is_left_out_is_counted_by_reason(tmp_path, caplog, capsys):
    folder = tree(tmp_path / "videos", ["run/1.mp4", "run/._1.mp4", "__MACOSX/run/2.mp4"])
    tree(folder, [".Trash/3.mp4", "notes.txt", "frames.mp4/1.jpg", "frames.mp4/2.JPG", "README"])
    (folder / "gone.mp4").symlink_to(tmp_path / "nothing.mp4")
    (folder / "self.mp4").symlink_to(folder / "self.mp4")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "device.mp4").symlink_to("/dev/null")
    line = (
        "left out: 2 dangling links, 3 hidden, 2 not regular files, "
        "4 with other suffixes (.jpg 2, none 1, .txt 1)"
    )
    with caplog.at_level(logging.WARNING):
        read = manifest.read(folder)
    assert caplog.messages == [f"{folder}: {line}"]
    assert read.video_ids == ("run/1",)
    assert scanned(folder, tmp_path) == read
    assert line in capsys.readouterr().out.splitlines()
    (folder / "run" / "1.mp4").unlink()
    with pytest.raises(ManifestError, match="videos: no video files in this folder; left out: 2"):
        manifest.read(folder)


def test_a_linked_folder_is_read_once_and_circles_end(tmp_path):
    elsewhere = tree(tmp_path / "elsewhere", ["jump/1.mp4"])
    folder = tree(tmp_path / "videos", ["run/1.mp4"])
    for name, target in {
        "a_link": folder / "run",  # before the folder itself in the order of names
        "linked": elsewhere,
        "run/round": folder,
        "run/up": tmp_path,
        "elsewhere_again": elsewhere,
    }.items():
        (folder / name).symlink_to(target)
    (elsewhere / "back").symlink_to(elsewhere)
    read = manifest.read(folder)
    assert read.video_ids == ("elsewhere_again/jump/1", "run/1")
    assert folders.walk(folder).left_out == "left out: 5 links to folders listed before"
    assert scanned(folder, tmp_path) == read


def test_a_linked_file_and_a_folder_that_is_linked_are_read(tmp_path):
    source = tree(tmp_path / "source", ["1.mp4"]) / "1.mp4"
    folder = tmp_path / ".hidden" / "videos"  # the folder itself may be in a hidden one
    (folder / "run").mkdir(parents=True)
    (folder / "run" / "2.mp4").symlink_to(source)
    (tmp_path / "link").symlink_to(folder)
    assert manifest.read(tmp_path / "link").video_ids == ("run/2",)


@pytest.mark.parametrize("command", [manifest.read, lambda f: main(["scan", str(f)])])
@pytest.mark.parametrize(
    "name, shown",
    [
        (b"caf\xe9.mp4", r"caf\xe9.mp4"),
        (b"a\nb.mp4", r"a\nb.mp4"),
        (b"f\xe9/1.mp4", r"f\xe9/1.mp4"),
    ],
)
def test_a_name_that_no_table_can_contain_is_named(tmp_path, monkeypatch, command, name, shown):
    monkeypatch.chdir(tmp_path)
    path = os.path.join(os.fsencode(tmp_path / "videos"), name)
    os.makedirs(os.path.dirname(path))
    with open(path, "w"):
        pass
    with pytest.raises((ManifestError, SystemExit)) as raised:
        command(tmp_path / "videos")
    message = str(raised.value)
    assert f"1 names are not UTF-8 or have control characters, first {tmp_path}" in message
    assert shown in message and "\n" not in message and message.isascii()
    assert not (tmp_path / "manifest.tsv").exists()


@pytest.mark.parametrize("command", [manifest.read, lambda f: main(["scan", str(f)])])
def test_two_files_of_one_id_are_named(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    folder = tree(tmp_path / "videos", ["a/x.mp4", "a/x.avi", "a/y.mp4"])
    with pytest.raises((ManifestError, SystemExit), match="a/x.avi and .*a/x.mp4; remove"):
        command(folder)


def test_a_long_list_is_a_few_names_and_a_count(tmp_path):
    folder = tree(
        tmp_path / "videos", [f"{i}.{suffix}" for i in range(50) for suffix in ("mp4", "avi")]
    )
    with pytest.raises(
        ManifestError, match="50 video ids .*: 0, 1, 10, 11, 12, and 45 more; files"
    ):
        manifest.read(folder)


def test_a_folder_or_table_that_does_not_exist_is_named_by_its_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ManifestError, match=f"{tmp_path}/nothing: no such folder"):
        manifest.read("nothing")
    with pytest.raises(SystemExit, match=f"{tmp_path}/nothing: no such folder"):
        main(["scan", "nothing"])
    (tmp_path / "x.mp4").write_text("video")
    with pytest.raises(ManifestError, match="x.mp4: not a table; use the folder"):
        manifest.read("x.mp4")


@pytest.mark.parametrize(
    "suffix, codec, container",
    [
        (".flv", "flv", "flv"),
        (".f4v", "libx264", "mp4"),
        (".wmv", "wmv2", "asf"),
        (".asf", "wmv2", "asf"),
        (".ts", "libx264", "mpegts"),
        (".mts", "libx264", "mpegts"),
        (".m2ts", "libx264", "mpegts"),
        (".ogv", "libvpx", "ogg"),
        (".3gp", "libx264", "3gp"),
        (".3g2", "libx264", "3g2"),
        (".mpg", "mpeg1video", "mpeg"),
        (".mpeg", "mpeg2video", "mpeg"),
        (".vob", "mpeg2video", "vob"),
        (".m2v", "mpeg2video", "mpeg2video"),
        (".mxf", "mpeg2video", "mxf"),
        (".divx", "mpeg4", "avi"),
        (".m4v", "libx264", "mp4"),
        (".qt", "libx264", "mov"),
        (".rm", "rv20", "rm"),
        (".y4m", "wrapped_avframe", "yuv4mpegpipe"),
        (".gif", "gif", "gif"),
        (".apng", "apng", "apng"),
    ],
)
def test_every_suffix_is_read_and_sought_exactly(tmp_path, write_video, suffix, codec, container):
    path = write_video(tmp_path / f"a{suffix}", 40, codec=codec, container=container, g="12")
    (stored,) = manifest.read(tmp_path).paths
    assert stored == str(path) and video.probe(stored, decode=True).num_frames == 40
    frames = list(video.frames(stored))
    for start in (0, 1, 13, 30):
        clip = video.clip(stored, start, 5)
        assert all((a == b).all() for a, b in zip(clip, frames[start : start + 5], strict=True))


def test_in_a_locale_without_utf8_the_advice_is_not_to_rename_files(tmp_path):
    """In such a locale Python does not read any name as UTF-8, and the names are right."""
    (tmp_path / "é.mp4").write_bytes(b"")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    read = (
        "import os; from vcjax.data import folders; "
        f"folders.check_names('x', os.listdir({str(tmp_path)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", read], env=environment, capture_output=True, text=True, check=False
    )
    assert "set PYTHONUTF8=1" in done.stderr and "rename" not in done.stderr
