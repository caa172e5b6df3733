import json
from collections import Counter

import pytest

from vcjax.data import layouts, manifest, video
from vcjax.data.__main__ import main
from vcjax.data.layouts import ListError, hmdb51, kinetics, ucf101


def write(folder, contents):
    """Files by their name in `folder`; those of a set are empty of meaning but all different."""
    for name in contents:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contents[name] if isinstance(contents, dict) else name)
    return folder


def rows(found):
    return {v.video_id: (v.label, v.split) for v in found.videos.values()}


def counts(videos):
    return Counter(v.split for v in videos.values())


@pytest.mark.parametrize("split, train, test", [(1, 9537, 3783), (2, 9586, 3734), (3, 9624, 3696)])
def test_ucf101_has_the_published_counts(shared, split, train, test):
    videos = ucf101.read(sorted((shared / "splits" / "ucf101").iterdir()), split)
    assert counts(videos) == {"train": train, "test": test}
    assert len({v.label for v in videos.values()}) == 101


@pytest.mark.parametrize("split", [1, 2, 3])
def test_hmdb51_has_the_published_counts(shared, split):
    videos = hmdb51.read(sorted((shared / "splits" / "hmdb51").iterdir()), split)
    assert counts(videos) == {"train": 3570, "test": 1530, "": 1666}
    sides = Counter((v.label, v.split) for v in videos.values() if v.split)
    assert len(sides) == 102  # 70 and 30 of each of 51 classes, no empty one among them
    assert all(n == (70 if side == "train" else 30) for (_, side), n in sides.items())


def test_kinetics_has_the_published_counts(shared):
    lists = shared / "splits" / "kinetics"
    videos = kinetics.read([lists / "kinetics-400_val.csv"], 1)
    assert len({v.video_id for v in videos.values()}) == 19_906
    names = {v.label for v in videos.values()}
    assert names == set((lists / "label_map_k400.txt").read_text().splitlines())
    test = kinetics.read([lists / "kinetics-400_test.csv"], 1)
    assert {(v.label, v.split) for v in test.values()} == {("", "")}


@pytest.mark.parametrize(
    "name, layout, count", [("UCF-101", "UCF101", 33), ("hmdb51", "HMDB51", 9)]
)
@pytest.mark.parametrize("split", [1, 2, 3])
def test_real_videos_are_found_and_joined(shared, name, layout, count, split):
    found = layouts.find(shared / "videos" / name, shared / "splits", split=split)
    assert found.layout == layout and not found.unlisted and not found.extra
    assert len(found.videos) + found.left_out == count
    for path, listed in found.videos.items():
        assert (path.parent.name, path.stem) == (listed.label, listed.video_id)


@pytest.mark.parametrize("name, count", [("UCF-101", 33), ("hmdb51", 9)])
def test_a_scan_of_real_videos_is_a_manifest_that_decodes(shared, tmp_path, capsys, name, count):
    out = tmp_path / "manifest.tsv"
    main(["scan", str(shared / "videos" / name), "--lists", str(shared / "splits"), f"--out={out}"])
    printed = capsys.readouterr().out
    read = manifest.read(out)
    assert len(read) == count and "" not in read.labels["class"]
    for number in (1, 2, 3):  # each split alone says the same
        alone = tmp_path / "split.tsv"
        lists = ["--lists", str(shared / "splits"), f"--split={number}", f"--out={alone}"]
        main(["scan", str(shared / "videos" / name), *lists])
        other = manifest.read(alone)
        sides = dict(zip(read.video_ids, read.labels[f"split{number}"], strict=True))
        assert {v: side for v, side in sides.items() if side} == dict(
            zip(other.video_ids, other.split, strict=True)
        )
        if number == 1:
            assert f"{len(other)} videos" in printed
    for path in read.paths:  # one of HMDB51 has metadata that is not UTF-8
        assert video.clip(path, 5, 4).shape[:2] == (4, 240)  # as both data sets are published


UCF101 = {
    "trainlist01.txt": "HandstandPushups/v_HandStandPushups_g08_c01.avi 37\r\n"
    "YoYo/v_YoYo_g08_c01.avi 101\r\n",
    "testlist01.txt": "HandstandPushups/v_HandStandPushups_g01_c01.avi\r\n",
}


@pytest.mark.parametrize("spelling", ["HandStandPushups", "HandstandPushups"])
def test_ucf101_joins_either_spelling_of_handstand_pushups(tmp_path, spelling):
    write(tmp_path / "lists", UCF101)
    names = {f"{spelling}/v_{spelling}_g08_c01.avi", f"{spelling}/v_{spelling}_g01_c01.avi"}
    found = layouts.find(write(tmp_path / "videos", names), tmp_path / "lists", split=None)
    assert rows(found) == {
        "v_HandStandPushups_g08_c01": ("HandstandPushups", "train"),
        "v_HandStandPushups_g01_c01": ("HandstandPushups", "test"),
    }
    assert [v.video_id for v in found.missing] == ["v_YoYo_g08_c01"]


def test_hmdb51_marks_are_read_past_spaces_at_the_end_of_the_line(tmp_path):
    lines = ["a b_wave_0.avi 1 ", "c_wave_0.avi 2", "d_wave_0.avi  0  ", ""]
    write(tmp_path, {"wave_test_split2.txt": "\n".join(lines), "class_list.txt": "wave\n"})
    write(tmp_path, {f"wave/{name}_wave_0.avi" for name in ("a b", "c", "d", "e")})
    found = layouts.find(tmp_path, None, split=2)
    assert rows(found) == {"a b_wave_0": ("wave", "train"), "c_wave_0": ("wave", "test")}
    assert found.left_out == 1 and [p.stem for p in found.unlisted] == ["e_wave_0"]


KINETICS = {
    "train.csv": "label,youtube_id,time_start,time_end,split,is_cc\n"
    '"air drumming",-1234_67890,10,20,train,0\nzumba,abcdefghijk,4,14,train,0\n'
    "zumba,twice_12345,0,10,train,0\nair drumming,twice_12345,50,60,train,0\n",
    "validate.csv": "label,youtube_id,time_start,time_end,split\nzumba,validate__x,0,10,validate\n",
    "test.csv": "youtube_id,time_start,time_end,split\ntest_______,0,10,test\n",
}


@pytest.mark.parametrize(
    "names",
    [
        ["{id}.mp4", "{id}.mp4"],
        ["{id}_{start:06d}_{end:06d}.mp4", "{id}_{start:06d}_{end:06d}.webm"],
        ["air drumming/{id}_{start:06d}_{end:06d}.mp4", "zumba/{id}_{start}_{end}.mkv"],
        ["train/air_drumming/{id}.mp4", "val/zumba/{id}.mp4"],
    ],
)
def test_kinetics_joins_every_way_that_files_are_named(tmp_path, names):
    write(tmp_path, KINETICS)
    first = names[0].format(id="-1234_67890", start=10, end=20)
    second = names[1].format(id="validate__x", start=0, end=10)
    found = layouts.find(write(tmp_path, {first, second, "test_______.mp4"}), None, split=None)
    assert rows(found) == {
        "-1234_67890_000010_000020": ("air drumming", "train"),
        "validate__x_000000_000010": ("zumba", "test"),
    }
    assert len(found.missing) == 3 and found.left_out == 1


def test_kinetics_tells_two_clips_of_one_video_by_their_times(tmp_path):
    write(tmp_path, KINETICS)
    names = {"twice_12345_000000_000010.mp4", "twice_12345_000050_000060.mp4", "twice_12345.mp4"}
    found = layouts.find(write(tmp_path, names), None, split=None)
    assert rows(found) == {
        "twice_12345_000000_000010": ("zumba", "train"),
        "twice_12345_000050_000060": ("air drumming", "train"),
    }
    assert [p.name for p in found.unlisted] == ["twice_12345.mp4"]  # either might be meant


def test_a_replacement_or_a_file_with_something_in_it_is_preferred(tmp_path):
    write(tmp_path, KINETICS)
    write(tmp_path, {"train/abcdefghijk.mp4", "replacement_for_corrupted_k400/abcdefghijk.mp4"})
    write(tmp_path, {"a/-1234_67890.mp4": "", "b/-1234_67890.mp4": "not empty"})
    found = layouts.find(tmp_path, None, split=None)
    assert {p.parent.name for p in found.videos} == {"replacement_for_corrupted_k400", "b"}
    assert {p.parent.name for p in found.extra} == {"train", "a"}


@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
def test_something_something_has_templates_as_classes(tmp_path, prefix):
    template = "Holding [something] next to [something]"
    train = [{"id": "7", "label": "holding potato next to bottle", "template": template}]
    validation = [{"id": "9", "label": "holding a cup next to tea", "template": template}]
    lists = {"train": train, "validation": validation, "test": [{"id": "11"}], "labels": {"a": "0"}}
    write(tmp_path, {f"{prefix}{name}.json": json.dumps(list) for name, list in lists.items()})
    write(tmp_path, {"20bn-something-something-v2/7.webm", "20bn-something-something-v2/9.webm"})
    found = layouts.find(tmp_path, None, split=None)
    label = "Holding something next to something"
    assert rows(found) == {"7": (label, "train"), "9": (label, "test")}
    assert not found.missing


def test_a_plain_folder_has_classes_and_splits_by_its_folders(tmp_path):
    plain = write(tmp_path / "plain", {"run/1.mp4", "jump/1.mp4", "jump/notes.txt", "2.mov"})
    found = layouts.find(plain, None, split=None)
    assert rows(found) == {"run/1": ("run", ""), "jump/1": ("jump", ""), "2": ("", "")}
    assert found.layout == "plain folder"
    divided = write(tmp_path / "divided", {"train/run/1.mp4", "val/run/2.mp4", "test/3.mp4"})
    assert rows(layouts.find(divided, None, split=None)) == {
        "train/run/1": ("run", "train"),
        "val/run/2": ("run", "test"),
        "test/3": ("", "test"),
    }


def test_links_are_followed_but_not_in_circles(tmp_path):
    videos = write(tmp_path / "videos", {"run/1.mp4"})
    (videos / "run" / "round").symlink_to(videos)
    (videos / "gone.mp4").symlink_to(tmp_path / "nothing.mp4")
    (tmp_path / "linked").symlink_to(videos)
    found = layouts.find(tmp_path / "linked", None, split=None)
    assert rows(found) == {"run/1": ("run", "")}


def test_equal_contents_are_found_also_across_the_split(tmp_path, capsys):
    same = {"train/a/1.mp4": "same", "test/a/2.mp4": "same", "train/a/3.mp4": "else"}
    write(tmp_path / "videos", same | {"train/a/4.mp4": "", "train/a/5.mp4": ""})
    main(["scan", str(tmp_path / "videos"), f"--out={tmp_path / 'manifest.tsv'}"])
    printed = capsys.readouterr().out
    assert "1 groups of files are equal" in printed and ", in train and test" in printed
    assert "2 files are empty" in printed
    assert manifest.read(tmp_path / "manifest.tsv").split == ("test", *["train"] * 4)


def test_a_long_group_of_equal_contents_is_a_few_names_and_a_count(tmp_path, capsys):
    write(tmp_path / "videos", {f"{i:02d}.mp4": "same" for i in range(30)})
    main(["scan", str(tmp_path / "videos"), f"--out={tmp_path / 'manifest.tsv'}"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if " = " in line]
    assert line.count(" = ") == 9 and line.endswith("09.mp4, and 20 more")


def test_what_is_missing_is_counted_and_listed(tmp_path, capsys):
    write(tmp_path / "videos", UCF101 | {"YoYo/v_YoYo_g08_c01.avi": "x"})
    out = tmp_path / "new" / "manifest.tsv"
    main(["scan", str(tmp_path / "videos"), f"--out={out}"])
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["YoYo", "1", "0", "0", "0"] in printed and ["all", "1", "1", "0", "1"] in printed
    missing = out.with_name("manifest.missing.tsv").read_text().splitlines()
    assert missing == [
        "video_id\tclass\tsplit",
        "v_HandStandPushups_g01_c01\tHandstandPushups\ttest",
        "v_HandStandPushups_g08_c01\tHandstandPushups\ttrain",
    ]


@pytest.mark.parametrize(
    "lists, message",
    [
        ({"trainlist01.txt": "v_YoYo_g08_c01.avi 101\n"}, "is not CLASS/VIDEO.avi"),
        ({"wave_test_split1.txt": "a_wave_0.avi 3\n"}, "is not VIDEO.avi and 0, 1 or 2"),
        ({"a.csv": KINETICS["train.csv"], "b.csv": KINETICS["train.csv"].replace("zumba", "tai")},
         "lists of one data set"),
        ({"a.csv": KINETICS["train.csv"].replace(",10,20", ",x,20")}, "a.csv, line 2"),
        ({"train.json": "{"}, "not JSON"),
        ({"testlist01.txt": UCF101["testlist01.txt"]}, "names any of the 1 videos.*UCF101"),
        ({"notes.txt": "nothing\n"}, "lists there: none of UCF101, HMDB51, Kinetics"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_lists_is_said_in_one_line(tmp_path, lists, message):
    videos = write(tmp_path / "videos", {"a/1.mp4"})
    write(tmp_path / "lists", lists)
    with pytest.raises(ListError, match=message):
        layouts.find(videos, tmp_path / "lists", split=None)
    with pytest.raises(SystemExit, match=f"vcjax.data: .*{message}") as raised:
        main(["scan", str(videos), "--lists", str(tmp_path / "lists")])
    assert "\n" not in str(raised.value)
