import json
import logging
import shutil

import pytest

from vcjax.runtime import checksums, stage_cache, stage_record
from vcjax.runtime.stage_cache import Stage
from vcjax.runtime.stage_record import StageError


@pytest.fixture
def ran():
    return []


def _stage(ran, name, inputs=(), **options):
    settings = options.pop("settings", {})

    def run(directory):
        ran.append(name)
        (directory / "result").write_text(name)

    return Stage(name, settings, inputs, run, **options)


def test_complete_stages_are_skipped(ran, tmp_path):
    pair = [_stage(ran, "a"), _stage(ran, "b", ("a",))]
    stage_cache.run(pair, tmp_path)
    stage_cache.run(pair, tmp_path)
    assert ran == ["a", "b"]


def test_changed_settings_redo_the_stage_and_what_depends_on_it_only(ran, tmp_path, caplog):
    def chain(rate):
        settings = {"rate": rate}
        return [
            _stage(ran, "a", settings=settings),
            _stage(ran, "b", ("a",)),
            _stage(ran, "c"),
        ]

    stage_cache.run(chain(1), tmp_path)
    ran.clear()
    with caplog.at_level(logging.INFO):
        stage_cache.run(chain(2), tmp_path)
    assert ran == ["a", "b"]
    assert "a: redone, because rate 1 -> 2;" in caplog.text
    assert "b: redone, because stage a changed;" in caplog.text


def test_the_plan_of_a_stage_changes_nothing_on_disk(ran, tmp_path):
    def stage(rate=1, videos="all", by_video=()):
        settings = {"rate": rate, "videos": videos}
        return _stage(ran, "a", settings=settings, which_videos=("videos",), by_video=by_video)

    def plan(stage):
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        plan = stage_cache._plan(stage, tmp_path)
        assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        return plan.action, plan.changed, plan.damaged

    assert plan(stage()) == ("start", "", ())
    stage_cache.run([stage()], tmp_path)
    assert plan(stage()) == ("skip", "", ())
    assert plan(stage(rate=2)) == ("redo", "rate 1 -> 2", ())
    change = 'videos "all" -> "few"'
    assert plan(stage(videos="few")) == ("redo", change, ())
    assert plan(stage(videos="few", by_video=("result",))) == ("update", change, ())
    _flip(tmp_path / "a" / "result")
    assert plan(stage()) == ("continue", "", (tmp_path / "a" / "result",))
    assert plan(stage(videos="few", by_video=("result",))) == ("redo", change, ())


def test_same_result_of_an_input_leaves_what_depends_on_it(ran, tmp_path):
    def chain(rate):
        first = Stage("a", {"rate": rate}, (), lambda directory: "the same digest")
        return [first, _stage(ran, "b", ("a",))]

    stage_cache.run(chain(1), tmp_path)
    stage_cache.run(chain(2), tmp_path)
    assert ran == ["b"]


def test_interrupted_stage_finds_its_files_again(tmp_path):
    def fail(directory):
        (directory / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage_cache.run([Stage("a", {}, (), fail)], tmp_path)
    found = []
    stage_cache.run(
        [Stage("a", {}, (), lambda d: found.extend(x.name for x in d.iterdir()))], tmp_path
    )
    assert "half" in found


@pytest.mark.parametrize("keeps", [False, True])
def test_changed_settings_clear_the_folder_unless_the_stage_keeps_it(ran, tmp_path, keeps):
    stage_cache.run([_stage(ran, "a", settings={"x": 1}, keeps=keeps)], tmp_path)
    (tmp_path / "a" / "old").touch()
    stage_cache.run([_stage(ran, "a", settings={"x": 2}, keeps=keeps)], tmp_path)
    assert (tmp_path / "a" / "old").exists() == keeps


def test_only_some_stages_run_and_need_the_others_complete(ran, tmp_path):
    pair = [_stage(ran, "a"), _stage(ran, "b", ("a",))]
    with pytest.raises(StageError, match="b needs a, which is not complete"):
        stage_cache.run(pair, tmp_path, only=["b"])
    with pytest.raises(StageError, match="no stage 'laa' in this config; use some of a, b"):
        stage_cache.run(pair, tmp_path, only=["laa"])
    stage_cache.run(pair, tmp_path, only=["a"])
    stage_cache.run(pair, tmp_path, only=["b"])
    assert ran == ["a", "b"]


def test_seconds_are_of_complete_stages(ran, tmp_path):
    stage_cache.run([_stage(ran, "a")], tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "stage.json").write_text(json.dumps({"complete": False, "seconds": 3}))
    assert stage_record.seconds(tmp_path, ["a", "b", "c"]).keys() == {"a"}


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_flip, lambda path: path.write_text(""), lambda p: p.unlink()])
def test_damaged_result_is_made_again(ran, tmp_path, caplog, damage):
    pair = [_stage(ran, "a"), _stage(ran, "b", ("a",))]
    stage_cache.run(pair, tmp_path)
    damage(tmp_path / "a" / "result")
    stage_cache.run(pair, tmp_path)
    assert ran == ["a", "b", "a"]
    assert (tmp_path / "a" / "result").read_text() == "a"
    assert f"{tmp_path / 'a' / 'result'}: missing or damaged; running it again" in caplog.text


def test_nothing_is_made_from_what_is_damaged(ran, tmp_path):
    pair = [_stage(ran, "a"), _stage(ran, "b", ("a",))]
    stage_cache.run(pair[:1], tmp_path)
    _flip(tmp_path / "a" / "result")
    with pytest.raises(StageError, match="b needs a, but .*a/result is missing or damaged"):
        stage_cache.run(pair, tmp_path, only=["b"])
    assert ran == ["a"]


def test_checkpoints_may_be_removed_to_save_space(ran, tmp_path):
    def run(directory):
        ran.append("a")
        (directory / "checkpoints" / "3").mkdir(parents=True)
        (directory / "checkpoints" / "3" / "bank").write_text("1")

    stage_cache.run([Stage("a", {}, (), run)], tmp_path)
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    stage_cache.run([Stage("a", {}, (), run)], tmp_path)
    assert ran == ["a"]


def test_damaged_record_is_that_of_a_stage_that_has_begun(ran, tmp_path, caplog):
    stage_cache.run([_stage(ran, "a")], tmp_path)
    _flip(tmp_path / "a" / "stage.json")
    stage_cache.run([_stage(ran, "a")], tmp_path)
    stage_cache.run([_stage(ran, "a")], tmp_path)
    assert ran == ["a", "a"]
    assert "stage.json: damaged" in caplog.text
    for name in ("stage.json", "stage.previous.json"):
        (tmp_path / "a" / name).write_text("{")
    with pytest.raises(StageError, match=f"stage.json: damaged; remove {tmp_path / 'a'}"):
        stage_cache.run([_stage(ran, "a")], tmp_path)


def test_any_bit_of_a_record_counts(tmp_path):
    stage_cache.run([Stage("a", {"rate": 3}, (), lambda d: None)], tmp_path)
    path = tmp_path / "a" / "stage.json"
    content, expected = path.read_bytes(), stage_record.read(tmp_path / "a")
    previous = checksums.read_json(tmp_path / "a" / "stage.previous.json")
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        found = stage_record.read(tmp_path / "a")
        assert found == previous or found.items() >= expected.items()
