"""A program that starts another one of ours, and is asked to stop: signals to one and to both."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

STARTS = """
import sys
from vcjax.runtime import preemption

preemption.listen()
try:
    print("returned", preemption.run([sys.executable, "-c", sys.argv[1]]))
except (preemption.StopRequested, KeyboardInterrupt):
    sys.exit(preemption.exit_code())
"""
TRAINS = """
import sys, time
from vcjax.runtime import preemption

preemption.listen()
try:
    with preemption.defer_stop():
        print("training", flush=True)
        while not preemption.stop_requested(None):
            time.sleep(0.01)
        time.sleep(0.3)  # in which the signal to the other arrives
        print("kept", flush=True)
except preemption.StopRequested:
    sys.exit(preemption.exit_code())
"""
HANGS = TRAINS.replace("time.sleep(0.3)", "print('hangs', flush=True), time.sleep(60)")

LEAVES = """
import multiprocessing
from vcjax.runtime import preemption

preemption.listen()
held = multiprocessing.get_context("forkserver").Lock()
preemption.leave(preemption.EXIT_CODE)
"""


def test_last_line_of_a_stopped_process_with_workers_says_how_to_resume():
    command = [sys.executable, "-c", LEAVES]
    # the resource tracker holds standard error open, so that its warning is in it
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 75
    assert "To resume, run:" in ended.stderr.splitlines()[0], ended.stderr
    assert "resource_tracker" not in ended.stderr


@pytest.fixture
def start():
    """Starts the program that starts the one of that source, in a group of their own."""
    started = []

    def begin(source):
        root = str(Path(__file__).parents[2])
        process = subprocess.Popen(
            [sys.executable, "-c", STARTS, source],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([root, *sys.path])},
            process_group=0,
        )
        started.append(process)
        assert process.stdout.readline() == "training\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("send", [os.kill, os.killpg])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_the_program_that_it_started_keeps_what_it_has_before_it_ends(start, send, number, code):
    process = start(TRAINS)
    send(process.pid, number)
    assert process.stdout.read() == "kept\n"
    assert process.wait(20) == code


def test_a_second_ctrl_c_ends_both_at_once(start):
    process = start(HANGS)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "hangs\n"
    process.send_signal(signal.SIGINT)
    # at the end of the output no process has it open
    assert process.stdout.read() == ""
    assert process.wait(20) == 130


@pytest.mark.parametrize(("code", "ends", "said"), [(75, 75, ""), (3, 0, "returned 3\n")])
def test_what_ends_by_itself_is_told_apart(start, code, ends, said):
    process = start(f"import sys; print('training', flush=True); sys.exit({code})")
    assert process.stdout.read() == said
    assert process.wait(20) == ends
