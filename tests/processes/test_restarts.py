"""A run goes on with another number of processes and devices; VCJAX_LONG=1 runs this."""

import os

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("VCJAX_LONG"), reason="long: set VCJAX_LONG=1"),
]
FLAGS = [
    "--config.stages=('manifest','idt','fisher','ir','la')",
    "--config.data.rendered.num_videos=30",
    *(f"--config.{stage}.batch_size=8" for stage in ("ir", "la")),
    *(f"--config.{stage}.epochs=6" for stage in ("ir", "la")),
    # at 0.03 a difference of 1e-7 grows without end
    *(f"--config.{stage}.learning_rate=1e-4" for stage in ("ir", "la")),
]


def _state(workdir, stage):
    newest = max((workdir / stage / "checkpoints").glob("[0-9]*"), key=lambda p: int(p.name))
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(newest / "state")
    state = jax.tree.map(np.asarray, state)
    videos = np.abs(state["bank"]).sum(axis=1) > 0  # without padding
    return state | {"bank": state["bank"][videos]}, newest.name


def _stop_in(run, stage, workdir):
    runs = run if isinstance(run, list) else [run]
    checkpoints = workdir / stage / "checkpoints"
    runs[0].wait_for(lambda: any(checkpoints.glob("[4-9]")), 400)
    runs[-1].terminate()
    assert [r.ends(60) for r in runs] == [75] * len(runs), runs[0].log[-3000:]


def _assert_close(workdir, expected):
    for stage in ("ir", "la"):
        (state, step), (wanted, wanted_step) = _state(workdir, stage), _state(expected, stage)
        assert step == wanted_step
        differences = jax.tree.map(
            lambda a, b: np.abs(a.astype(np.float64) - b).max(initial=0), state, wanted
        )
        largest = max(jax.tree.leaves(differences))
        print(f"{stage}: {len(state['bank'])} rows of the bank, largest difference {largest:.1e}")
        assert largest < 1e-4


@pytest.fixture
def undisturbed(start, tmp_path):
    """One process with one device, from beginning to end."""
    workdir = tmp_path / "undisturbed"
    assert start(workdir, *FLAGS).ends(900) == 0
    return workdir


def test_one_then_two_then_one_process_end_as_one(start, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    _stop_in(start(workdir, *FLAGS), "ir", workdir)
    _stop_in(start(workdir, *FLAGS, count=2), "la", workdir)
    last = start(workdir, *FLAGS)
    assert last.ends(900) == 0 and "la: continues from the checkpoint" in last.log
    _assert_close(workdir, undisturbed)


def test_eight_then_four_devices_end_as_one(start, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    _stop_in(start(workdir, *FLAGS, devices=8), "ir", workdir)
    _stop_in(start(workdir, *FLAGS, devices=4), "la", workdir)
    last = start(workdir, *FLAGS, devices=4)
    assert last.ends(900) == 0 and "la: continues from the checkpoint" in last.log
    _assert_close(workdir, undisturbed)
