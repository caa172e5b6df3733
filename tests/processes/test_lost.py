"""Two processes train as one; what becomes of the one when the other ends."""

import os
import signal
import time

import pytest

STAGES = ["--stages=manifest,ingest,ir", "--config.ir.validate_epochs=100"]


@pytest.mark.slow
def test_when_one_is_killed_the_other_names_it_and_ends_and_both_go_on_again(start, tmp_path):
    workdir = tmp_path / "run"
    flags = [*STAGES, "--config.ir.epochs=20"]
    for lost, step in ((1, 9), (0, 18)):
        runs = start(workdir, *flags, count=2)
        runs[0].wait_for((workdir / "ir" / "checkpoints" / str(step)).exists)
        runs[lost].kill()
        begin = time.monotonic()
        code = runs[1 - lost].ends(60)
        seconds = time.monotonic() - begin
        print(f"process {lost} killed: the other ended after {seconds:.1f} s")
        named = f"process {lost} (pid {runs[lost].pid} on " in runs[1 - lost].log
        # where the first is gone, jax ends the others as well, and may do so before us
        by_jax = code == -signal.SIGABRT and "the leader" in runs[1].log
        assert (code == 75 and named) or (lost == 0 and by_jax), runs[1 - lost].log[-3000:]
    assert "ir: continues from the checkpoint of step" in runs[0].log
    again = start(workdir, *flags, count=2)
    assert [run.ends() for run in again] == [0, 0], again[0].log[-3000:]
    assert "ir: continues from the checkpoint of step" in again[0].log


@pytest.mark.slow
def test_a_notice_to_one_stops_both_at_the_same_step_with_a_checkpoint(start, tmp_path):
    workdir = tmp_path / "run"
    flags = [*STAGES, "--config.ir.epochs=2000"]
    runs = start(workdir, *flags, count=2)
    runs[0].wait_for((workdir / "ir" / "checkpoints" / "9").exists)
    os.kill(runs[1].pid, signal.SIGTERM)
    begin = time.monotonic()
    assert [run.ends(60) for run in runs] == [75, 75], runs[0].log[-3000:]
    assert time.monotonic() - begin < 30
    stopped = [run.log.split("stopped after step ")[1].split(";")[0] for run in runs]
    assert stopped[0] == stopped[1]
    assert (workdir / "ir" / "checkpoints" / stopped[0]).exists()


@pytest.mark.slow
def test_a_notice_to_one_that_waits_stops_the_first_in_its_work(start, tmp_path):
    workdir = tmp_path / "run"
    runs = start(workdir, "--stages=manifest", "--config.data.rendered.num_videos=5000", count=2)
    runs[0].wait_for(lambda: any((workdir / "manifest" / "videos").rglob("*.mp4")))
    os.kill(runs[1].pid, signal.SIGTERM)
    assert [run.ends(60) for run in runs] == [75, 75]
    assert "To resume, run:" in runs[0].log and "To resume, run:" in runs[1].log
