"""A run that is killed at random moments; VCJAX_KILLS says how often (default 3).

From 10 kills on it has all stages, to the report. JAX_COMPILATION_CACHE_DIR keeps what is compiled.
"""

import contextlib
import json
import os
import random
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

NUM_KILLS = int(os.environ.get("VCJAX_KILLS", "3"))
PATIENCE = 60  # seconds
STAGES = ("manifest", "ingest", "fisher", "ir")
if NUM_KILLS >= 10:
    STAGES += ("la", "tune", "evaluate")


@pytest.fixture(scope="module")
def undisturbed(small_run, finished, tmp_path_factory):
    """Its folder, and the seconds that one takes of which all is compiled."""
    workdir = finished
    if "evaluate" in STAGES:
        workdir = tmp_path_factory.mktemp("kills") / "undisturbed"
        small_run.finish(workdir, STAGES)
    again = tmp_path_factory.mktemp("kills") / "again"
    begin = time.monotonic()
    small_run.finish(again, STAGES)
    return workdir, time.monotonic() - begin


def is_killed(process, seconds):
    """Whether it still ran then."""
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        end = time.monotonic() + PATIENCE
        while living := processes_of(process.pid):  # nor do those that it started live on
            assert time.monotonic() < end, living
            time.sleep(0.1)
        return True


def processes_of(session):
    """Those of a session that are not zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _, _, owner = path.read_text().rpartition(")")[2].split()[:4]
            if int(owner) == session and state != "Z":
                found.append(int(path.parent.name))
    return found


def stage_of(workdir):
    """The first stage that is not complete."""
    records = [workdir / name / "stage.json" for name in STAGES]
    done = [r.exists() and json.loads(r.read_text())["complete"] for r in records]
    return next((s for s, complete in zip(STAGES, done, strict=True) if not complete), "the end")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")
def test_a_run_that_is_killed_and_started_again_ends_as_an_undisturbed_one(
    small_run, undisturbed, result, tmp_path
):
    workdir, duration = undisturbed
    (arrays, report), generator = result(workdir), random.Random(time.time_ns())
    assert any("bank" in name for name in arrays)
    num_kills, num_runs, in_this = 0, 0, 0
    while num_kills < NUM_KILLS or in_this:
        workdir = tmp_path / f"killed{num_runs}"
        process = small_run.start(workdir, STAGES)
        more = num_kills < NUM_KILLS
        if more and is_killed(process, generator.uniform(0, duration)):
            num_kills, in_this = num_kills + 1, in_this + 1
            print(f"kill {num_kills}: in {stage_of(workdir)}", flush=True)
            continue
        small_run.assert_ended_well(process, workdir)
        found, told = result(workdir)
        assert told == report
        assert found.keys() == arrays.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, arrays[name], err_msg=name)
        print(f"{num_kills} kills, {in_this} of them in run {num_runs}, as undisturbed", flush=True)
        num_runs, in_this = num_runs + 1, 0
