"""Tables as spreadsheets, scripts and data frames write them."""

import logging
from pathlib import Path

import pytest

from vcjax.data import manifest, splits
from vcjax.data.manifest import ManifestError

TEXT = "path\tclass\tsplit\nclips/café.mp4\tnaïve\ttrain\nclips/b.mp4\t3\ttest\n"


@pytest.fixture
def read(tmp_path):
    """Return the manifest of a table with some content."""

    def write(content, name="videos.tsv"):
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(content)
        return manifest.read(tmp_path / name)

    return write


def is_text(listed, tmp_path):
    return (
        listed.video_ids == ("clips/b", "clips/café")
        and listed.paths == (str(tmp_path / "clips/b.mp4"), str(tmp_path / "clips/café.mp4"))
        and listed.labels == {"class": ("3", "naïve")}
        and listed.split == ("test", "train")
    )


@pytest.mark.parametrize("name", ["videos.tsv", "videos.csv", "videos.txt"])
@pytest.mark.parametrize("delimiter", ["\t", ",", ";", "|"])
def test_the_separator_is_read_from_the_header(read, tmp_path, name, delimiter):
    assert is_text(read(TEXT.replace("\t", delimiter), name), tmp_path)


def test_a_separator_in_a_name_is_part_of_it(read):
    assert read("path\na,b.mp4\nc;d.mp4\n").video_ids == ("a,b", "c;d")


@pytest.mark.parametrize(
    "header", ["Path\tclass\tSplit", " PATH \tClass\tSPLIT ", "path\tCLASS\tsplit"]
)
def test_the_case_of_a_column_does_not_matter(read, tmp_path, header):
    assert is_text(read(TEXT.replace("path\tclass\tsplit", header)), tmp_path)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r", "\n\n"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_the_encoding_is_recognized(read, tmp_path, caplog, encoding, newline):
    listed = read(TEXT.replace("\n", newline).encode(encoding))
    assert is_text(listed, tmp_path) and not caplog.messages


def test_latin_1_is_read_with_a_remark(read, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert is_text(read(TEXT.encode("latin-1")), tmp_path)
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path}/videos.tsv: not UTF-8, read as Latin-1")


def test_a_column_without_a_name_is_the_index_of_a_data_frame(read, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        listed = read("".join(f"{i or ''}\t{line}\n" for i, line in enumerate(TEXT.splitlines())))
    assert is_text(listed, tmp_path) and "columns without a name" in caplog.messages[0]


@pytest.mark.parametrize(
    "content, message",
    [
        ("path\tclass\tclass\na.mp4\t1\t2\n", "more than one column is named 'class'"),
        ("path\tPath\na.mp4\tb.mp4\n", "more than one column is named 'path'"),
        ("path\tscene\tx\tscene\tx\n", "more than one column is named 'scene', 'x'"),
        ("file;class\na.mp4;1\n", "no `path` column among 'file;class'; the first line"),
        ("path\tclass\na.mp4\t1\n\nb.mp4\n", "line 4: not 2 columns but 1"),
        ("path\tclass\n\t1\n", "line 2: no path"),
        ("path\tnum_frames\na.mp4\tmany\n", "num_frames of /.*/a.mp4 is 'many'"),
        ("path\tsplit\na.mp4\tlater\n", "split of /.*/a.mp4 is 'later'; use train or test"),
        (
            "path\nx/a.mp4\nx/a.avi\n",
            "1 video ids .*: x/a; files of the first: /.*a.mp4 and /.*.avi",
        ),
        (b"PK\x03\x04 path\0\xff\n", "not a readable table"),
        (b"path\n\x81\x8d.mp4\n", "not a readable table: .*; save it as UTF-8"),
        (b"\xff\xfep\0a\0t", "not a readable table: .*; save it as UTF-8"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_in_one_line(read, tmp_path, content, message):
    with pytest.raises(ManifestError, match=message) as raised:
        read(content)
    assert str(raised.value).startswith(f"{tmp_path}/videos.tsv")
    assert "\n" not in str(raised.value)


def test_a_tilde_is_the_home_folder(read, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read("path\n~/clips/a.mp4\nb~.mp4\n").paths == (
        str(tmp_path / "b~.mp4"),
        str(tmp_path / "clips/a.mp4"),
    )
    assert len(manifest.read("~/videos.tsv")) == 2
    assert len(manifest.read(Path("~/videos.tsv"))) == 2


@pytest.mark.parametrize(
    "name, side",
    [("train", "train"), ("Training", "train"), ("val", "test"), ("valid", "test"),
     ("validation", "test"), ("VAL ", "test"), ("test", "test"), ("testing", "test")],
)  # fmt: skip
def test_names_of_splits_are_understood(read, name, side):
    rows = f"path\tsplit\tsplit1\na.mp4\t{name}\t{name}\nb.mp4\ttest\ttest\n"
    assert read(rows).split == (side, "test")
    assert read(rows).labels["split1"] == (side, "test")


@pytest.mark.parametrize("missing", ["", "nan", "NaN", "None", "<NA>"])
def test_a_missing_label_is_no_value(read, missing):
    listed = read(
        f"path\tclass\tnum_frames\na.mp4\t7\t5\nb.mp4\t{missing}\t{missing}\nc.mp4\t0\t6.0\n"
    )
    assert listed.labels["class"] == ("7", "", "0") and listed.num_frames == (5, 0, 6)
    text = manifest.summary(splits.assign_split(listed, group="", holdout=0.3, seed=0), [])
    assert "  class: 2 values: 7 1, 0 1; 1 videos without a label" in text


def test_a_class_named_none_is_a_class(read):
    assert read("path\tclass\na.mp4\tnone\nb.mp4\twave\n").labels["class"] == ("none", "wave")


def test_two_spellings_of_one_path_are_one_video(read):
    with pytest.raises(ManifestError, match="1 video ids occur more than once: a/b"):
        read("path\na/b.mp4\na/../a/./b.mp4\n")


def test_spaces_around_a_path_are_left_out_unless_a_file_has_this_name(read, tmp_path):
    (tmp_path / "c.mp4 ").touch()
    table = "path , class , num_frames, split\na.mp4 , run , 5 , train \n b.mp4 ,run,6,val\n"
    listed = read(table + "c.mp4 ,,,\n", "videos.csv")
    assert listed.video_ids == ("a", "b", "c")
    assert listed.paths == tuple(str(tmp_path / name) for name in ("a.mp4", "b.mp4", "c.mp4 "))
    assert listed.labels == {"class": ("run", "run", "")}
    assert listed.num_frames == (5, 6, 0) and listed.split == ("train", "test", "")
    with pytest.raises(ManifestError, match="1 video ids occur more than once: a"):
        read("path\na.mp4\na.mp4 \n")


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_table_is_refused_as_empty(read, content):
    with pytest.raises(ManifestError, match="videos.tsv: the table is empty"):
        read(content)
