import os
import signal
import socket
import subprocess
import sys

import pytest

from vcjax.runtime import lock, stage_cache

_HOLD = """
import multiprocessing, pathlib, sys, time
from vcjax.runtime import lock

with lock.held(pathlib.Path(sys.argv[1])):
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    worker.start()
    print(worker.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the folder, and a worker of it."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _HOLD, tmp_path]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    worker = int(process.stdout.readline())
    yield process
    process.kill()
    os.kill(worker, signal.SIGKILL)
    process.communicate()


def test_a_second_run_is_told_who_has_the_folder(holder, tmp_path):
    ran = []
    stage = stage_cache.Stage("a", {}, (), ran.append)
    who = f"in use by process {holder.pid} on {socket.gethostname()} since 2.*another --workdir$"
    with pytest.raises(lock.LockError, match=who):
        stage_cache.run([stage], tmp_path)
    assert not ran and not (tmp_path / "a").exists()


def test_a_killed_run_leaves_no_lock_though_its_workers_live_on(holder, tmp_path):
    holder.kill()
    holder.wait()
    with lock.held(tmp_path):
        pass


def test_a_folder_that_cannot_be_locked_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(file, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)
    with lock.held(tmp_path):
        assert "do not start a second run in it" in caplog.text
