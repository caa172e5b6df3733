"""Results stay until their replacement is complete, and a refused run changes no file."""

import logging
import shutil

import pytest

from vcjax.runtime import previous_result, stage_cache, stage_record
from vcjax.runtime.stage_cache import Stage
from vcjax.runtime.stage_record import StageError


def _train(name, rate=1, epochs=2, inputs=(), ran=None, fails=None, **options):
    """A stage that writes a checkpoint per epoch, one text for its rate, and may fail at the end.

    Like a training stage, it continues from its last checkpoint.
    """

    def run(directory):
        done = stage_record.steps(directory)
        for step in range(1 + max(done, default=0), 1 + epochs):
            (directory / "checkpoints" / str(step)).mkdir(parents=True)
            (directory / "checkpoints" / str(step) / "bank").write_text(f"{rate}, step {step}")
            if ran is not None:
                ran.append((name, step))
            if fails and step == 1:
                raise fails
        if fails:
            raise fails

    def extends(old, new):
        return old | {"epochs": 0} == new | {"epochs": 0} and new["epochs"] > old["epochs"]

    settings = {"rate": rate, "epochs": epochs}
    options = {"section": name, "extends": extends} | options
    return Stage(name, settings, inputs, run, **options)


def _files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "run.lock"
    }


def _refuse(*ignored):
    raise ValueError("refused")


def test_a_stage_that_is_refused_leaves_every_file_of_all_stages(tmp_path):
    stage_cache.run([_train("a"), _train("b")], tmp_path)
    before = _files(tmp_path)
    with pytest.raises(ValueError, match="refused"):
        stage_cache.run([_train("a", rate=2), _train("b", rate=2, check=_refuse)], tmp_path)
    assert _files(tmp_path) == before


def test_a_check_is_given_the_stages_that_run_before_it(tmp_path):
    given = []
    chain = [_train("a"), _train("b", inputs=("a",)), _train("c", inputs=("b",))]
    stage_cache.run(chain, tmp_path)
    chain[1] = _train("b", rate=2, inputs=("a",))
    chain[2] = chain[2]._replace(check=lambda running: given.append(set(running)))
    stage_cache.run(chain, tmp_path)
    assert given == [{"b"}, set()]  # before the run, and when the stage begins


@pytest.mark.parametrize("keeps", [False, True])
def test_the_old_result_is_removed_when_the_new_one_is_complete_unless_it_is_kept(tmp_path, keeps):
    previous = tmp_path / "a.previous" / "checkpoints" / "2" / "bank"
    stage_cache.run([_train("a")], tmp_path)
    seen = []
    stage = _train("a", rate=2)

    def run(directory):
        seen.append(previous.read_text())
        stage.run(directory)

    stage_cache.run([stage._replace(run=run)], tmp_path, keep_previous=keeps)
    assert seen == ["1, step 2"]
    assert previous.exists() == keeps
    assert (tmp_path / "a" / "checkpoints" / "2" / "bank").read_text() == "2, step 2"


def test_the_message_has_the_values_of_the_setting_and_the_cost(tmp_path, caplog):
    stage_cache.run([_train("a", epochs=6)], tmp_path)
    with caplog.at_level(logging.INFO):
        stage_cache.run([_train("a", epochs=3)], tmp_path)
    assert "a: redone, because a.epochs 6 -> 3; 6 trained steps are repeated" in caplog.text


def test_a_killed_replacement_is_resumed_or_the_old_result_is_taken_back(tmp_path):
    for settings in ({"rate": 2}, {}):
        workdir, ran = tmp_path / str(len(settings)), []
        workdir.mkdir()
        stage_cache.run([_train("a")], workdir)
        old = _files(workdir)
        with pytest.raises(KeyboardInterrupt):
            stage_cache.run([_train("a", rate=2, fails=KeyboardInterrupt())], workdir)
        stage_cache.run([_train("a", **settings, ran=ran)], workdir)
        assert ran == ([("a", 2)] if settings else [])
        assert not (workdir / "a.previous").exists()
        if not settings:
            assert _files(workdir) == old


def test_an_interrupted_replacement_never_replaces_the_complete_result(tmp_path):
    stage_cache.run([_train("a")], tmp_path)
    for rate in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            stage_cache.run([_train("a", rate=rate, fails=KeyboardInterrupt())], tmp_path)
    assert (tmp_path / "a.previous" / "checkpoints" / "2" / "bank").read_text() == "1, step 2"


@pytest.mark.parametrize("moment", ["replace", "rmtree", "write"])
def test_a_kill_while_folders_move_loses_nothing(tmp_path, monkeypatch, moment):
    """The process dies before the n-th call; the run that follows ends like an undisturbed one."""
    owner = {"replace": previous_result.os, "rmtree": previous_result.shutil}.get(
        moment, stage_record
    )
    original = getattr(owner, moment)
    for n in range(8):
        workdir = tmp_path / str(n)
        workdir.mkdir()
        stage_cache.run([_train("a")], workdir)
        old = _files(workdir / "a" / "checkpoints")
        calls = []

        def dies(*arguments, n=n, calls=calls, **options):
            calls.append(arguments)
            if len(calls) > n:
                raise KeyboardInterrupt
            return original(*arguments, **options)

        monkeypatch.setattr(owner, moment, dies)
        try:
            stage_cache.run([_train("a", rate=2)], workdir)
        except KeyboardInterrupt:
            pass
        monkeypatch.undo()
        folders = [workdir / name / "checkpoints" for name in ("a", "a.previous")]
        record = stage_record.read(workdir / "a")
        replaced = record.get("complete") and record["settings"]["rate"] == 2
        assert replaced or old in map(_files, folders), (moment, n)
        stage_cache.run([_train("a", rate=2)], workdir)
        assert (workdir / "a" / "checkpoints" / "2" / "bank").read_text() == "2, step 2"


def test_a_stage_that_is_refused_when_it_begins_takes_its_result_back(tmp_path):
    stage_cache.run([_train("a")], tmp_path)
    before = _files(tmp_path)
    with pytest.raises(ValueError, match="refused"):
        stage_cache.run([_train("a", rate=2)._replace(run=_refuse)], tmp_path)
    assert _files(tmp_path) == before


def test_a_longer_stage_continues_and_can_be_undone(tmp_path, caplog):
    ran = []
    stage_cache.run([_train("a")], tmp_path)
    old = _files(tmp_path)
    with caplog.at_level(logging.INFO), pytest.raises(KeyboardInterrupt):
        stage_cache.run([_train("a", epochs=4, fails=KeyboardInterrupt(), ran=ran)], tmp_path)
    assert "a: continues, because a.epochs 2 -> 4; 2 trained steps are kept" in caplog.text
    assert ran == [("a", 3), ("a", 4)]
    stage_cache.run([_train("a", ran=ran)], tmp_path)
    assert _files(tmp_path) == old and len(ran) == 2
    stage_cache.run([_train("a", epochs=3, ran=ran)], tmp_path)
    assert ran[2:] == [("a", 3)]
    assert not (tmp_path / "a.previous").exists()


def test_an_input_made_with_other_settings_is_refused_unless_it_runs_too(tmp_path):
    def chain(rate):
        return [_train("a", rate), _train("b", inputs=("a",)), _train("c", inputs=("b",))]

    stage_cache.run(chain(1), tmp_path)
    before = _files(tmp_path)
    for only, name, needed in ((["b"], "b", "a"), (["c"], "c", "b")):
        match = f"{name} needs {needed}, which was made with other settings: a.rate 1 -> 2; add "
        with pytest.raises(StageError, match=match):
            stage_cache.run(chain(2), tmp_path, only=only)
    assert _files(tmp_path) == before
    stage_cache.run(chain(2), tmp_path, only=["a", "b"])


def test_removed_checkpoints_are_made_again_on_request_before_a_page_is_touched(tmp_path):
    ran = []

    def chain(rate):
        evaluate = _train("evaluate", rate, inputs=("a",), networks=("a",))
        return [_train("a", ran=ran), evaluate]

    stage_cache.run(chain(1), tmp_path)
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    before = _files(tmp_path)
    stage_cache.run(chain(1), tmp_path)
    match = "evaluate needs the checkpoints of a, which were removed; --stages=a,evaluate makes"
    for only in ([], ["evaluate"]):
        with pytest.raises(StageError, match=match):
            stage_cache.run(chain(2), tmp_path, only=only)
    assert _files(tmp_path) == before and len(ran) == 2
    stage_cache.run(chain(2), tmp_path, only=["a", "evaluate"])
    assert len(ran) == 4
    assert stage_record.read(tmp_path / "evaluate")["settings"]["rate"] == 2
