"""Two processes started by the Slurm script's own command line train as one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"

# Starts SLURM_NTASKS processes of its command as srun does on one node.
_SRUN = """#!{python}
import os, subprocess, sys
command = [word for word in sys.argv[1:] if word != "--kill-on-bad-exit"]
assert command[0] == "vcjax"
command = [sys.executable, "-m", *command]
count = int(os.environ["SLURM_NTASKS"])
started = [
    subprocess.Popen(command, env=os.environ | {{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}},
                     stderr=open(os.environ["LOGS"] + f"/{{i}}.log", "a"))
    for i in range(count)
]
open(os.environ["LOGS"] + "/pids", "w").write(" ".join(str(process.pid) for process in started))
sys.exit(max(process.wait() for process in started))
"""
_TINY = [
    "--stages=manifest,ingest,ir",
    "--config.data.rendered.num_videos=16",
    "--config.data.verify=header",
    "--config.ir.epochs=20",
    "--config.epochs_scale=1.0",
    "--config.ir.validate_epochs=20",
    "--config.clip.side=16",
    "--config.clip.num_frames=4",
    "--config.model.width=4",
]


@pytest.fixture
def slurm(tmp_path):
    """Starts the script inside a job with two tasks on this machine."""
    (tmp_path / "bin").mkdir()
    srun = tmp_path / "bin" / "srun"
    srun.write_text(_SRUN.format(python=sys.executable))
    srun.chmod(0o755)

    def start(workdir):
        environment = os.environ | {
            "PATH": f"{srun.parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(LAUNCH.parent), *sys.path]),
            "SLURM_JOB_ID": str(random.randrange(10**6)),  # which gives the port
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "XLA_FLAGS": "",
            "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),  # once for both starts
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "LOGS": str(tmp_path),
            "CONFIG": "la_idt.py:rendered,smoke",
            "MANIFEST": "",
            "CPUS_PER_GPU": "1",
            "WORKDIR": str(workdir),
        }
        command = ["bash", LAUNCH / "slurm_train.sh", *_TINY]
        return subprocess.Popen(command, env=environment, cwd=tmp_path, start_new_session=True)

    return start


@pytest.mark.slow
def test_two_processes_form_one_mesh_train_and_go_on_after_one_is_killed(slurm, tmp_path):
    workdir = tmp_path / "run"
    job = slurm(workdir)
    checkpoints = workdir / "ir" / "checkpoints"
    deadline = time.monotonic() + 400
    while not (checkpoints / "4").exists() and time.monotonic() < deadline:
        assert job.poll() is None, (tmp_path / "0.log").read_text()[-2000:]
        time.sleep(0.05)
    pid = int((tmp_path / "pids").read_text().split()[1])
    os.kill(pid, signal.SIGKILL)
    assert job.wait(timeout=60) == 75, (tmp_path / "0.log").read_text()[-2000:]
    assert f"process 1 (pid {pid} on " in (tmp_path / "0.log").read_text()
    assert slurm(workdir).wait(timeout=240) == 0, (tmp_path / "0.log").read_text()[-2000:]
    logs = [(tmp_path / f"{i}.log").read_text() for i in range(2)]
    assert "process 0 of 2" in logs[0] and "process 1 of 2" in logs[1]
    assert all("ir: continues from the checkpoint of step" in log for log in logs)
    assert json.loads((workdir / "ir" / "stage.json").read_text())["complete"]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == sorted(set(steps)) and steps[-1] == 20  # one process wrote, each step once
    assert any("validation/motion" in line for line in lines)
