"""SIGTERM in the middle of each kind of stage; VCJAX_LONG=1 runs them all, else the first alone."""

import json
import os
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

STAGES = ("manifest", "ingest", "fisher", "ir", "la", "evaluate", "finetune", "few_shot")
TRAINING = {"ir": "ir", "la": "la", "finetune": "finetune/split"}
FLAGS = [
    f"--config.stages={STAGES}",
    "--config.finetune.init_from=la",
    "--config.few_shot.init_from=la",
    "--config.ir.epochs=12",
    "--config.la.epochs=12",
    "--config.finetune.epochs=4",
    "--config.evaluation.clips_per_video=3",
]
long = pytest.mark.skipif(not os.environ.get("VCJAX_LONG"), reason="long: set VCJAX_LONG=1")


def test_a_stage_that_is_stopped_says_how_to_go_on(start, tmp_path):
    run = start(tmp_path / "run", "--stages=manifest", "--config.data.rendered.num_videos=2000")
    run.wait_for(lambda: any((tmp_path / "run" / "manifest" / "videos").rglob("*.mp4")))
    run.send_signal(signal.SIGTERM)
    assert run.ends(30) == 75
    assert "vcjax: stopped. To resume, run:\n" in run.log
    assert "-m vcjax.main --config=la_idt.py:rendered,smoke" in run.log.splitlines()[-1]
    assert not json.loads((tmp_path / "run" / "manifest" / "stage.json").read_text())["complete"]


@pytest.mark.slow
def test_a_notice_to_claim_stops_its_seed_with_a_checkpoint(start, tmp_path):
    run = start(tmp_path, "--stages=manifest,ingest,ir", "--config.ir.epochs=2000", seeds=(3, 4))
    checkpoints = tmp_path / "seed3" / "ir" / "checkpoints"
    run.wait_for((checkpoints / "3").exists)
    run.send_signal(signal.SIGTERM)
    assert run.ends(60) == 75
    step = run.log.split("ir: stopped after step ")[1].split(";")[0]
    assert (checkpoints / step).exists() and not (tmp_path / "seed4").exists()
    assert "vcjax.evaluation: stopped. To resume, run:\n" in run.log
    assert "-m vcjax.evaluation claim --config=la_idt.py:rendered,smoke" in run.log.splitlines()[-1]


def _result(workdir):
    """What all stages end with, but for the time that it took."""
    found = {}
    for stage in TRAINING:
        for checkpoints in sorted((workdir / stage).rglob("checkpoints")):
            newest = max(checkpoints.glob("[0-9]*"), key=lambda path: int(path.name))
            with ocp.StandardCheckpointer() as checkpointer:
                state = checkpointer.restore(newest / "state")
            for path, array in jax.tree_util.tree_leaves_with_path(state):
                found[f"{newest}{jax.tree_util.keystr(path)}".removeprefix(str(workdir))] = array
    report = json.loads((workdir / "report.json").read_text())
    del report["seconds"]
    results = [json.loads((workdir / s / "result.json").read_text()) for s in STAGES[-2:]]
    return {k: np.asarray(v) for k, v in found.items()}, report, results


def _is_in_the_middle(workdir, stage):
    """Whether something of the stage is done; of those without files, that it has begun."""
    if stage == "manifest":
        return any((workdir / stage / "videos").rglob("*.mp4"))
    if stage == "ingest":
        return len([p for p in (workdir / stage).rglob("*") if p.is_file()]) > 3
    if stage in TRAINING:
        path = workdir / "metrics.jsonl"
        lines = [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []
        return any(x["stage"].startswith(stage) and x["step"] >= 4 for x in lines)
    return (workdir / stage / "stage.json").exists()


@long
@pytest.mark.slow
def test_stopped_in_each_stage_a_run_ends_as_an_undisturbed_one(start, tmp_path):
    assert start(tmp_path / "undisturbed", *FLAGS).ends(900) == 0
    workdir = tmp_path / "run"
    for stage in STAGES:
        run = start(workdir, *FLAGS)
        run.wait_for(lambda stage=stage: _is_in_the_middle(workdir, stage), 600)
        if stage == "evaluate":  # the others take less than a second
            time.sleep(2)
        run.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        assert run.ends(60) == 75, (stage, run.log[-3000:])
        seconds = time.monotonic() - begin
        complete = json.loads((workdir / stage / "stage.json").read_text())["complete"]
        kept = "its checkpoint is kept" in run.log
        print(f"{stage}: stopped after {seconds:.1f} s, complete {complete}, checkpoint {kept}")
        assert not complete and kept == (stage in TRAINING) and seconds < 30
    assert start(workdir, *FLAGS).ends(900) == 0
    (arrays, *told), (expected, *wanted) = _result(workdir), _result(tmp_path / "undisturbed")
    assert told == wanted and arrays.keys() == expected.keys()
    assert any("['bank']" in name for name in arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    print(f"{len(arrays)} arrays and the reports are bit-identical")
