import itertools
import random
from collections import Counter

import pytest

from vcjax.data import manifest, splits, verify
from vcjax.data.manifest import ManifestError

ROWS = [f"videos/{name}.mp4\tscene{i % 3}" for i, name in enumerate("fbdace")]


def table(path, rows, header="path\tscene"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def many(num_groups=20, size=5):
    """A manifest of `num_groups` groups of different sizes."""
    ids = [f"{g:02d}/{i}" for g in range(num_groups) for i in range(size + g % 3)]
    groups = tuple(video_id[:2] for video_id in ids)
    return manifest.Manifest(
        tuple(ids), tuple(ids), {"scene": groups}, ("",) * len(ids), (0,) * len(ids)
    )


def test_the_class_in_a_folder_is_the_parent_folder(tmp_path):
    for name in ("run/b.mp4", "run/a.AVI", "jump/far/c.mkv", "top.webm", "run/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = manifest.read(tmp_path)
    assert found.video_ids == ("jump/far/c", "run/a", "run/b", "top")
    assert found.labels["class"] == ("far", "run", "run", "")
    assert found.paths[1] == str(tmp_path / "run" / "a.AVI")


@pytest.mark.parametrize("suffix, separator", [("tsv", "\t"), ("csv", ",")])
def test_a_table_has_paths_ids_splits_and_labels(tmp_path, suffix, separator):
    lines = [["video_id", "path", "split", "action"],
             ["two", "x/2.mp4", "test", "wave"],
             ["", "x/1.mp4", "train", ""]]  # fmt: skip
    path = tmp_path / f"videos.{suffix}"
    path.write_text("\n".join(separator.join(line) for line in lines))
    found = manifest.read(path)
    assert found.video_ids == ("two", "x/1")
    assert found.paths == (str(tmp_path / "x/2.mp4"), str(tmp_path / "x/1.mp4"))
    assert found.split == ("test", "train") and found.labels == {"action": ("wave", "")}
    assert found.subset("train").video_ids == ("x/1",) and found.rows("test").tolist() == [0]


def test_the_order_of_the_list_does_not_matter(tmp_path):
    found = manifest.read(table(tmp_path / "a.tsv", ROWS))
    assert found.video_ids == tuple(f"videos/{name}" for name in "abcdef")
    for seed in range(3):
        shuffled = random.Random(seed).sample(ROWS, len(ROWS))
        assert manifest.read(table(tmp_path / "b.tsv", shuffled)) == found


@pytest.mark.parametrize(
    "rows, header, message",
    [
        (["a.mp4\tx", "b.mp4\tx", "a.mp4\ty"], "path\tscene", "1 video ids .* more than once: a"),
        (["a.mp4\tx"], "file\tscene", "no `path` column"),
        (["a.mp4\tx\ty"], "path\tscene", "line 2: not 2 columns"),
        (["a.mp4\tx", "b.mp4"], "path\tscene", "line 3: not 2 columns"),
        (["\tx"], "path\tscene", "line 2: no path"),
        ([], "path\tscene", "no videos"),
        (["a.mp4\tlater"], "path\tsplit", "split of /.*/a.mp4 is 'later'; use train or test"),
        (["a\x1b[31m.mp4\tx"], "path\tscene", "control characters"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path, rows, header, message):
    with pytest.raises(ManifestError, match=message):
        manifest.read(table(tmp_path / "videos.tsv", rows, header))


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ManifestError, match="no such folder or file"):
        manifest.read(tmp_path / "nothing")
    with pytest.raises(ManifestError, match="no video files"):
        manifest.read(tmp_path)
    (tmp_path / "binary.tsv").write_bytes(b"path\n\xff\xfe\x00")
    with pytest.raises(ManifestError, match="not a readable table"):
        manifest.read(tmp_path / "binary.tsv")


def test_any_other_column_is_a_label(tmp_path):
    found = manifest.read(table(tmp_path / "videos.tsv", ["a.mp4\tx"], "path\trelative"))
    assert found.video_ids == ("a",) and found.labels == {"relative": ("x",)}


@pytest.fixture
def half_broken(tmp_path, write_video):
    """Four good videos, and one each missing, empty, truncated and of text."""
    for name in "abcd":
        write_video(tmp_path / f"{name}.mp4", 6)
    cut = write_video(tmp_path / "truncated.avi", 60, codec="mpeg4", g="8")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video\n" * 99)
    names = ["a.mp4", "empty.mp4", "b.mp4", "missing.mp4", "truncated.avi", "text.mp4"]
    names += ["c.mp4", "d.mp4"]
    return manifest.read(table(tmp_path / "videos.tsv", names, "path"))


BROKEN = ["empty", "missing", "text", "truncated"]


def test_all_broken_videos_are_named(half_broken):
    def named(videos):
        with pytest.raises(ManifestError, match=f"2 of {len(videos)} videos") as raised:
            verify.verify(videos, on_error="error", decode=True, num_workers=1)
        return [line.split("/")[-1].split(".")[0] for line in str(raised.value).splitlines()[1:-1]]

    # missing and empty files are named before any video is decoded
    assert named(half_broken) == ["empty", "missing"]
    rest = [i for i, name in enumerate(half_broken.video_ids) if name not in ("empty", "missing")]
    assert named(half_broken.take(rest)) == ["text", "truncated"]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_broken_videos_are_left_out_and_listed(half_broken, tmp_path, num_workers):
    kept, problems = verify.verify(
        half_broken, on_error="skip", decode=True, num_workers=num_workers
    )
    assert kept.video_ids == ("a", "b", "c", "d") and kept.num_frames == (6,) * 4
    assert [p.video_id for p in problems] == BROKEN
    assert problems[1].reason == "no such file" and problems[0].reason == "the file is empty"
    manifest.save_problems(problems, tmp_path / "problems.tsv")
    assert len((tmp_path / "problems.tsv").read_text().splitlines()) == 5
    kept = splits.assign_split(kept, group="", holdout=0.4, seed=0)
    assert "left out 4 videos" in manifest.summary(kept, problems)


def test_nothing_left_is_an_error(tmp_path):
    listed = manifest.read(table(tmp_path / "videos.tsv", ["a.mp4", "b.mp4"], "path"))
    with pytest.raises(ManifestError, match="none of 2 videos"):
        verify.verify(listed, on_error="skip", decode=False, num_workers=1)
    with pytest.raises(ManifestError, match="use error or skip"):
        verify.verify(listed, on_error="ignore", decode=False, num_workers=1)


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_together_and_the_share_is_kept(seed):
    split = splits.assign_split(many(), group="scene", holdout=0.25, seed=seed)
    sides = set(zip(split.labels["scene"], split.split, strict=True))
    assert len(sides) == 20  # each group on one side
    assert abs(Counter(split.split)["test"] / len(split) - 0.25) < 0.03


def test_the_seed_alone_decides_the_split():
    first, again, other = (
        splits.assign_split(many(), group="scene", holdout=0.25, seed=seed).split
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_a_split_that_is_there_stays(tmp_path):
    path = table(tmp_path / "a.tsv", ["a.mp4\ttest", "b.mp4\ttrain"], "path\tsplit")
    given = manifest.read(path)
    assert splits.assign_split(given, group="", holdout=0.9, seed=0) == given
    path = table(tmp_path / "b.tsv", ["a.mp4\ttest", "b.mp4\t"], "path\tsplit")
    with pytest.raises(ManifestError, match="1 of 2 videos have no split, .* first .*b.mp4"):
        splits.assign_split(manifest.read(path), group="", holdout=0.5, seed=0)


def test_a_single_group_cannot_be_split():
    with pytest.raises(ManifestError, match="all videos are of one scene"):
        splits.assign_split(many(num_groups=1), group="scene", holdout=0.25, seed=0)


@pytest.mark.parametrize("holdout", [0.0, 0.01, 0.99, 1.0])
def test_neither_side_is_ever_empty(holdout):
    split = splits.assign_split(many(), group="scene", holdout=holdout, seed=0)
    assert set(split.split) == {"train", "test"}


def test_loading_gives_back_what_was_saved(tmp_path):
    saved = splits.assign_split(many(), group="scene", holdout=0.25, seed=0)
    saved = manifest.Manifest(
        saved.video_ids,
        tuple(str(tmp_path / f"{i}.mp4") for i in saved.video_ids),
        saved.labels | {"odd": tuple('a "quoted", one' for _ in saved.video_ids)},
        saved.split,
        tuple(itertools.islice(itertools.count(10), len(saved))),
    )
    manifest.save(saved, tmp_path / "manifest.tsv")
    assert manifest.load(tmp_path / "manifest.tsv") == saved


def test_a_signature_tells_a_changed_video(tmp_path, write_video):
    listed = table(tmp_path / "videos.tsv", ["a.mp4", "b.mp4"], "path")
    write_video(tmp_path / "a.mp4", 4)
    before = manifest.signature(listed)
    assert manifest.signature(listed) == before
    write_video(tmp_path / "b.mp4", 4)
    assert manifest.signature(listed) != before


def _training(listed, num_videos, seed=0):
    return set(splits.subsample(listed, num_videos, seed=seed).subset("train").video_ids)


def test_subsets_are_nested_and_keep_what_is_held_out():
    split = splits.assign_split(many(), group="scene", holdout=0.25, seed=0)
    everything = set(split.subset("train").video_ids)
    subsets = [_training(split, n) for n in (1, 20, 50, 0)]
    assert [len(s) for s in subsets] == [1, 20, 50, len(everything)]
    assert all(a < b for a, b in itertools.pairwise(subsets))
    assert splits.subsample(split, 20, seed=0).subset("test") == split.subset("test")
    assert _training(split, 20, seed=1) != subsets[1]
    assert len({video_id[:2] for video_id in subsets[1]}) > 5  # from all over the collection


def test_a_subset_depends_on_no_other_video():
    split = splits.assign_split(many(), group="scene", holdout=0.25, seed=0)
    before = _training(split, 30)
    gone = sorted(before)[3]
    rest = split.take(i for i, video_id in enumerate(split.video_ids) if video_id != gone)
    assert before - {gone} < _training(rest, 30)


@pytest.mark.parametrize("num_videos", [-1, 10_000])
def test_a_subset_larger_than_the_collection_is_an_error(num_videos):
    split = splits.assign_split(many(), group="scene", holdout=0.25, seed=0)
    with pytest.raises(ManifestError, match=f"data.num_videos is {num_videos}, and there are"):
        splits.subsample(split, num_videos, seed=0)


@pytest.mark.parametrize("label", ["\r", "a\rb", "a\r\nb", "a\nb", "a\tb", 'a"b', " "])
def test_a_label_with_any_character_is_read_as_it_was_written(tmp_path, label):
    written = manifest.Manifest(
        ("a", "b"), ("/a.mp4", "/b.mp4"), {"scene": (label, "y")}, ("",) * 2, (5, 5)
    )
    manifest.save(written, tmp_path / "saved.tsv")
    assert manifest.load(tmp_path / "saved.tsv").labels["scene"] == (label, "y")
