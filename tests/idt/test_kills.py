"""Extraction that is killed at random moments, VCJAX_KILLS times (default 3)."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc of Linux"),
]

NUM_KILLS = int(os.environ.get("VCJAX_KILLS", "3"))
PATIENCE = 600  # seconds


@pytest.fixture
def start(tmp_path, write_gray, moving_patch):
    """A function that starts the extraction of four videos by two workers into a folder."""
    for i in range(4):
        write_gray(f"clip{i}", moving_patch[i : i + 20, :, :: (-1) ** i])
    running = []

    def start(name):
        command = [sys.executable, "-m", "vcjax.idt", "extract", "--num_workers", "2"]
        command += ["--manifest", str(tmp_path), "--out", str(tmp_path / name)]
        running.append(subprocess.Popen(command, start_new_session=True))
        return running[-1]

    yield start
    for process in running:
        for pid in members(process.pid):
            os.kill(pid, signal.SIGKILL)


def members(session):
    """Return the parents of a session's processes by process id, without zombies."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, _, owner = path.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(owner) == session and state != "Z":
            parents[int(path.parent.name)] = int(parent)
    return parents


def workers(session):
    """Return the grandchildren of the program, which the fork server forks."""
    parents = members(session)
    return [pid for pid, parent in parents.items() if parents.get(parent) == session]


def wait_until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def kill_program(process):
    process.kill()
    process.wait()
    wait_until(lambda: not members(process.pid))  # its workers end too


def kill_a_worker(process):
    wait_until(lambda: workers(process.pid) or process.poll() is not None)
    for pid in random.sample(workers(process.pid), 1) if workers(process.pid) else ():
        os.kill(pid, signal.SIGKILL)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_killed_and_restarted_ends_with_the_files_of_an_undisturbed_run(start, tmp_path):
    random.seed(time.time_ns())
    begin = time.monotonic()
    assert start("undisturbed").wait(PATIENCE) == 0
    duration = time.monotonic() - begin
    expected = contents(tmp_path / "undisturbed")
    assert len(expected) == 4
    for i in range(NUM_KILLS):
        process = start(f"out{i}")
        time.sleep(random.uniform(0, duration))
        (kill_program, kill_a_worker)[i % 2](process)
        process.wait(PATIENCE)
        assert start(f"out{i}").wait(PATIENCE) == 0
        assert contents(tmp_path / f"out{i}") == expected
