import json
import logging

import pytest

from vcjax import stages
from vcjax.stages import Stage, StageError


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
    stages.run(pair, tmp_path)
    stages.run(pair, tmp_path)
    assert ran == ["a", "b"]


def test_changed_settings_redo_the_stage_and_what_depends_on_it_only(ran, tmp_path, caplog):
    def chain(rate):
        settings = {"rate": rate}
        return [
            _stage(ran, "a", settings=settings),
            _stage(ran, "b", ("a",)),
            _stage(ran, "c"),
        ]

    stages.run(chain(1), tmp_path)
    ran.clear()
    with caplog.at_level(logging.INFO):
        stages.run(chain(2), tmp_path)
    assert ran == ["a", "b"]
    assert "a: redone, because rate changed" in caplog.text
    assert "b: redone, because stage a changed" in caplog.text


def test_same_result_of_an_input_leaves_what_depends_on_it(ran, tmp_path):
    def chain(rate):
        first = Stage("a", {"rate": rate}, (), lambda directory: "the same digest")
        return [first, _stage(ran, "b", ("a",))]

    stages.run(chain(1), tmp_path)
    stages.run(chain(2), tmp_path)
    assert ran == ["b"]


def test_interrupted_stage_finds_its_files_again(tmp_path):
    def fail(directory):
        (directory / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.run([Stage("a", {}, (), fail)], tmp_path)
    found = []
    stages.run([Stage("a", {}, (), lambda d: found.extend(x.name for x in d.iterdir()))], tmp_path)
    assert "half" in found


@pytest.mark.parametrize("keeps", [False, True])
def test_changed_settings_clear_the_folder_unless_the_stage_keeps_it(ran, tmp_path, keeps):
    stages.run([_stage(ran, "a", settings={"x": 1}, keeps=keeps)], tmp_path)
    (tmp_path / "a" / "old").touch()
    stages.run([_stage(ran, "a", settings={"x": 2}, keeps=keeps)], tmp_path)
    assert (tmp_path / "a" / "old").exists() == keeps


def test_only_some_stages_run_and_need_the_others_complete(ran, tmp_path):
    pair = [_stage(ran, "a"), _stage(ran, "b", ("a",))]
    with pytest.raises(StageError, match="b needs a, which is not complete"):
        stages.run(pair, tmp_path, only=["b"])
    with pytest.raises(StageError, match="no stage 'laa' in this config; it has a, b"):
        stages.run(pair, tmp_path, only=["laa"])
    stages.run(pair, tmp_path, only=["a"])
    stages.run(pair, tmp_path, only=["b"])
    assert ran == ["a", "b"]


def test_seconds_are_of_complete_stages(ran, tmp_path):
    stages.run([_stage(ran, "a")], tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "stage.json").write_text(json.dumps({"complete": False, "seconds": 3}))
    assert stages.seconds(tmp_path, ["a", "b", "c"]).keys() == {"a"}
