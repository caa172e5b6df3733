"""Real runs of `vcjax.main` in processes of their own."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

CONFIG = "la_idt.py:rendered,smoke"
TINY = [
    "--config.data.rendered.num_videos=18",
    "--config.data.verify=header",
    "--config.epochs_scale=1.0",
    "--config.clip.side=16",
    "--config.clip.num_frames=4",
    "--config.model.width=4",
    "--config.num_workers=1",
    "--config.data.num_threads=1",
    "--config.clusters.num_clusters=3",
    "--config.fisher.num_components=2",
    *(f"--config.{stage}.batch_size=4" for stage in ("ir", "la", "finetune")),
    *(f"--config.{stage}.lr_milestones=()" for stage in ("ir", "la")),
]


class Run(subprocess.Popen):
    """One process of a run, and what it has logged."""

    def __init__(self, command, log, **options):
        self._log = log
        with log.open("ab") as file:
            self._begin = file.tell()
            super().__init__(command, stderr=file, stdout=file, **options)

    @property
    def log(self) -> str:
        with self._log.open("rb") as file:
            file.seek(self._begin)
            return file.read().decode(errors="replace")

    def wait_for(self, happened, seconds=240):
        """Waits until the log has that text, or what is called says so."""
        deadline = time.monotonic() + seconds
        while not (happened() if callable(happened) else happened in self.log):
            assert self.poll() is None and time.monotonic() < deadline, self.log[-3000:]
            time.sleep(0.02)

    def ends(self, seconds=240) -> int:
        """The exit code; its log is in the error where it does not end."""
        try:
            return self.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.log[-3000:]) from None


def _last_state(stage):
    newest = max((stage / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    with ocp.PyTreeCheckpointer() as checkpointer:
        saved = checkpointer.metadata(newest / "state").item_metadata.tree
        arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
        return checkpointer.restore(newest / "state", restore_args=arrays), newest.name


@pytest.fixture
def last_state():
    """Folder of a training stage -> its newest state as NumPy, and the name of its step."""
    return _last_state


@pytest.fixture(scope="session")
def compiled(tmp_path_factory) -> Path:
    """What XLA has compiled, once for all processes."""
    return tmp_path_factory.getbasetemp().parent / "compiled"


@pytest.fixture
def start(compiled, tmp_path):
    """Starts a run of one process on so many devices, or of several; ends what is left of them.

    With `seeds` it is one of `vcjax.evaluation claim`. What jax compiles is kept, but never by the
    second of two processes: unless `optimized`, XLA is quick about it.
    """
    started = []

    def begin(workdir, *flags, devices=1, count=1, seeds=(), optimized=False):
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"
            + ("" if optimized else " --xla_backend_optimization_level=0"),
            "JAX_COMPILATION_CACHE_DIR": str(compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        program = ["vcjax.evaluation", "claim"] if seeds else ["vcjax.main"]
        command = [sys.executable, "-m", *program, f"--config={CONFIG}", f"--workdir={workdir}"]
        command += ["--seeds", *map(str, seeds), "--"] if seeds else []
        command += [*TINY, *flags]
        if count > 1:
            with socket.socket() as free:
                free.bind(("localhost", 0))
                where = f"--coordinator=localhost:{free.getsockname()[1]}"
            command += ["--distributed", where, f"--num_processes={count}"]
        runs = []
        for i in range(count):
            which = [f"--process_id={i}"] if count > 1 else []
            log = tmp_path / f"{Path(workdir).name}-{i}.log"
            runs.append(Run([*command, *which], log, env=environment))
        started.extend(runs)
        return runs if count > 1 else runs[0]

    yield begin
    for run in started:
        run.kill()
        run.wait()
