"""A small run of the real program, and what it ends with."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

ROOT = Path(__file__).parents[2]
TRAINING = ("ir", "la", "tune")
SHORT = ("manifest", "ingest", "fisher", "ir")
FULL = ("manifest", "ingest", "fisher", *TRAINING, "evaluate")
SETTINGS = {
    "data.rendered.num_videos": 12,
    "clip.side": 16,
    "clip.num_frames": 4,
    "clip.stride": 1,
    "model.width": 4,
    "model.embedding_dim": 16,
    "fisher.num_components": 2,
    "clusters.num_runs": 1,
    "epochs_scale": 0.05,
    "ir.batch_size": 4,
    "la.batch_size": 4,
    "tune.batch_size": 4,
    "ir.checkpoint_steps": 1,
    "num_workers": 1,
}


class SmallRun:
    """Starts the program on twelve rendered videos; what is compiled once stays compiled."""

    def __init__(self, cache: Path) -> None:
        compiled = {
            "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(cache)),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        quickly = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
        self._environment = {**os.environ, **compiled, **quickly}

    def start(self, workdir: Path, stages: tuple[str, ...], *more: str) -> subprocess.Popen:
        """The process; what it says goes into WORKDIR.log."""
        command = [sys.executable, "-m", "vcjax.main", "--config=la_idt.py:smoke"]
        command += [f"--config.{name}={value}" for name, value in SETTINGS.items()]
        command += [f"--config.stages={stages!r}", f"--workdir={workdir}", *more]
        with (workdir.parent / f"{workdir.name}.log").open("a") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def finish(self, workdir: Path, stages: tuple[str, ...]) -> None:
        """Runs until all stages are complete."""
        self.assert_ended_well(self.start(workdir, stages), workdir)

    @staticmethod
    def assert_ended_well(process: subprocess.Popen, workdir: Path) -> None:
        """Waits for the process."""
        assert process.wait() == 0, (workdir.parent / f"{workdir.name}.log").read_text()[-3000:]


@pytest.fixture(scope="session")
def small_run(shared_folder) -> SmallRun:
    return SmallRun(shared_folder / "compiled")


@pytest.fixture(scope="session")
def finished(small_run, shared_folder) -> Path:
    """The folder of a run that nothing disturbed, up to instance recognition; to be copied."""
    workdir = shared_folder / "finished"
    with (shared_folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared_folder / "done").exists():
            small_run.finish(workdir, SHORT)
            (shared_folder / "done").touch()
    return workdir


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    """One folder for all of the processes that run tests."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "faults"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def result():
    """What a run ends with, but for the time that it took: arrays, and the report."""

    def result(workdir: Path) -> tuple[dict[str, np.ndarray], dict]:
        arrays = {}
        for stage in TRAINING:
            found = (workdir / stage / "checkpoints").glob("[0-9]*")
            if newest := max(found, key=lambda path: int(path.name), default=None):
                with ocp.StandardCheckpointer() as checkpointer:
                    state = checkpointer.restore(newest / "state")
                for path, array in jax.tree_util.tree_leaves_with_path(state):
                    name = f"{stage}/{newest.name}{jax.tree_util.keystr(path)}"
                    arrays[name] = np.asarray(array)
        report = {}
        if (workdir / "report.json").exists():
            report = json.loads((workdir / "report.json").read_text())
            report.pop("seconds")
        return arrays, report

    return result
