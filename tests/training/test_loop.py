"""The loop on a state of two numbers: stopped anywhere, watched, and going on to the same end."""

import gc
import json
import signal
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from vcjax.runtime import checkpoint, checkpoint_files, preemption
from vcjax.training import diagnostics, loop

STEPS_PER_EPOCH, NUM_EPOCHS = 3, 3
IDS = [f"video{row}" for row in range(6)]


class State(NamedTuple):
    params: Any
    statistics: Any
    epochs_ended: Any


@pytest.fixture(autouse=True)
def listening(monkeypatch):
    monkeypatch.setattr(preemption, "_request", None)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    preemption.listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def _quiet(event):
    pass


class _Toy(NamedTuple):
    """A loop that calls `happens` with the name of each of its actions."""

    happens: Any = _quiet
    step: Any = None
    score: Any = lambda scalars: -scalars["validation/x"]

    def take_step(self, state, batch, count):
        self.happens(f"step {count}")
        if self.step:
            return self.step(state, batch, count)
        params, loss = _train(state.params, batch["index"])
        return state._replace(params=params, statistics=state.statistics + 1), {"loss": loss}

    def batches(self, first):
        for count in range(first, STEPS_PER_EPOCH * NUM_EPOCHS):
            self.happens(f"batch {count}")
            yield {"index": jnp.array([2 * count % 6, 2 * count % 6 + 1])}

    def begin_epoch(self, state, epoch):
        self.happens(f"begin {epoch}")
        return state._replace(params=state.params + epoch), {"clusters": epoch}

    def end_epoch(self, state, epoch):
        self.happens(f"end {epoch}")
        ended = state.epochs_ended + 1
        self.happens(f"ended {epoch}")
        return state._replace(epochs_ended=ended), {"validation/x": float(ended)}

    def train(self, run):
        """As `pretrain` and `finetune`."""
        state = State(jnp.ones(()), jnp.zeros(()), jnp.zeros(()))
        if run.resumes:
            state = State(**run.restore(state._asdict()))
        batches = self.batches(run.step)
        for epoch in run.epochs():
            if run.begins_epoch:
                with run.interruptible():
                    state, scalars = self.begin_epoch(state, epoch)
                run.log(scalars)
            for batch in run.batches(batches):
                with run.dispatching():
                    state, scalars = self.take_step(state, batch, run.step)
                run.end_step(state, scalars, batch["index"])
            with run.interruptible():
                state, scalars = self.end_epoch(state, epoch)
            run.end_epoch(scalars, score=self.score(scalars))
        return state


@jax.jit
def _train(params, index):
    loss = jnp.mean((params - index) ** 2) / 36
    return params * 0.9 + 0.01 * index.sum(), loss


def _run(workdir, toy, *, checkpoint_steps=0, keep_best=True):
    settings = {"batch_size": 2, "checkpoint_steps": checkpoint_steps}
    config = ConfigDict({"log_steps": 1, "keep_best": keep_best, "toy": settings})
    with loop.training_run(
        "toy",
        config,
        workdir,
        video_ids=IDS,
        num_epochs=NUM_EPOCHS,
        steps_per_epoch=STEPS_PER_EPOCH,
        learning_rate=lambda state, step: 0.1,
    ) as run:
        return toy.train(run)


def _metrics(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    timed = ("clips_per_second", "input_wait_fraction", "device_wait_fraction")
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


def _checkpoints(workdir):
    checkpoints = checkpoint.Checkpoints(workdir / "toy" / "checkpoints")
    checkpoints.close()
    return checkpoints


def _latest(workdir):
    return _checkpoints(workdir).latest


def _kept(workdir):
    return {int(path.name) for path in checkpoint_files.committed(workdir / "toy" / "checkpoints")}


@pytest.mark.parametrize("checkpoint_steps", [0, 2])
def test_stopped_anywhere_it_goes_on_to_the_same_end_and_metrics(tmp_path, checkpoint_steps):
    events, often = [], {"checkpoint_steps": checkpoint_steps}
    undisturbed = _run(tmp_path / "whole", _Toy(events.append), **often)
    assert undisturbed.epochs_ended == 3 and len(events) == 27
    for number, stopped_at in enumerate(events):

        def stop(event, stopped_at=stopped_at):
            if event == stopped_at:
                signal.raise_signal(signal.SIGTERM)

        workdir = tmp_path / str(number)
        with pytest.raises(preemption.StopRequested):
            _run(workdir, _Toy(stop), **often)
        assert preemption.exit_code() == 75
        preemption._request = None
        state = _run(workdir, _Toy(), **often)
        np.testing.assert_array_equal(np.array(state), np.array(undisturbed), stopped_at)
        assert _metrics(workdir) == _metrics(tmp_path / "whole"), stopped_at
        assert _checkpoints(workdir).best == (3, -1.0) and 3 in _kept(workdir), stopped_at


@pytest.mark.parametrize(("checkpoint_steps", "kept"), [(0, {3, 6, 9}), (2, {3, 8, 9})])
def test_the_best_checkpoint_is_kept_beside_the_last_two(tmp_path, checkpoint_steps, kept):
    state = _run(tmp_path, _Toy(), checkpoint_steps=checkpoint_steps)
    assert _kept(tmp_path) == kept and state.statistics == 9
    template = State(*jax.tree.map(jnp.zeros_like, state))._asdict()
    best = checkpoint.restore_part(tmp_path / "toy" / "checkpoints", template, best=True)
    assert best["statistics"] == 3 and best["epochs_ended"] == 0  # of before the validation
    again = _run(tmp_path, _Toy(), checkpoint_steps=checkpoint_steps)
    np.testing.assert_array_equal(np.array(again), np.array(state))  # from the last, not the best


def test_without_validation_or_if_not_wanted_only_the_last_two_are_kept(tmp_path):
    _run(tmp_path / "not wanted", _Toy(), keep_best=False)
    _run(tmp_path / "not validated", _Toy()._replace(score=lambda scalars: None))
    _run(tmp_path / "not a number", _Toy()._replace(score=lambda scalars: float("nan")))
    for workdir in tmp_path.iterdir():
        assert _kept(workdir) == {6, 9} and _checkpoints(workdir).best is None


def test_a_stop_in_a_step_keeps_that_step_and_one_while_waiting_that_before(tmp_path):
    for stopped_at, kept in (("step 4", 5), ("batch 4", 4), ("ended 0", 3)):

        def stop(event, stopped_at=stopped_at):
            if event == stopped_at:
                signal.raise_signal(signal.SIGTERM)

        with pytest.raises(preemption.StopRequested):
            _run(tmp_path / stopped_at, _Toy(stop))
        assert _latest(tmp_path / stopped_at) == kept
        preemption._request = None


def test_ctrl_c_stops_with_a_checkpoint_and_a_second_one_at_once(tmp_path):
    def stop(event):
        if event == "step 4":
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(preemption.StopRequested):
        _run(tmp_path, _Toy(stop))
    assert preemption.exit_code() == 130 and _latest(tmp_path) == 5
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_request_that_meets_code_whose_errors_are_dropped_is_not_lost():
    def at_collection(phase, info):
        gc.callbacks.remove(at_collection)
        signal.raise_signal(signal.SIGTERM)

    gc.callbacks.append(at_collection)
    gc.collect()
    with pytest.raises(preemption.StopRequested):
        for _ in range(400):  # a sleep that has begun is not broken off
            time.sleep(0.05)


def _spoiled(at, loss, params=jnp.nan):
    def step(state, batch, count):
        bad = count == at
        state = state._replace(params=params if bad else state.params)
        return state, {"loss": jnp.float32(loss if bad else 2.0)}

    return step


@pytest.mark.parametrize(("loss", "said"), [(jnp.nan, "nan"), (100.0, "100")])
def test_a_bad_loss_names_the_videos_and_the_last_good_checkpoint(tmp_path, loss, said):
    with pytest.raises(FloatingPointError) as error:
        _run(tmp_path, _Toy(step=_spoiled(4, loss, jnp.ones(()))), checkpoint_steps=2)
    kept = tmp_path / "toy" / "checkpoints" / "4"
    assert f"toy: the loss is {said} at step 5; the last good checkpoint is {kept}" in str(
        error.value
    )
    assert "Its batch: video2, video3 (" in str(error.value)
    assert kept.exists() and _latest(tmp_path) == 4
    told = json.loads((tmp_path / "toy" / "bad_batch.json").read_text())
    assert told["video_ids"]["5"] == ["video2", "video3"]


def test_an_explosion_is_measured_by_the_loss_at_first_also_after_a_restart(tmp_path):
    def stop(event):
        if event == "batch 3":
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(preemption.StopRequested):
        _run(tmp_path, _Toy(stop, step=_spoiled(-1, 0.0)))
    preemption._request = None
    with pytest.raises(FloatingPointError, match="the loss is 21 at step 5"):
        _run(tmp_path, _Toy(step=_spoiled(4, 21.0, jnp.ones(()))))
    assert diagnostics._EXPLODED * 2.0 < 21


def test_weights_that_a_good_loss_spoiled_are_not_saved(tmp_path):
    with pytest.raises(FloatingPointError, match="not finite after the update at step 6"):
        _run(tmp_path, _Toy(step=_spoiled(5, 2.0)))
    assert _latest(tmp_path) == 3


def test_weights_far_above_any_trained_ones_are_not_saved(tmp_path):
    with pytest.raises(
        FloatingPointError, match="diverged: a weight is 1e.06 .* at step 6"
    ) as error:
        _run(tmp_path, _Toy(step=_spoiled(5, 2.0, jnp.float32(1e6))))
    assert "--config.toy.learning_rate" in str(error.value)
    assert _latest(tmp_path) == 3


def test_slow_readers_are_told_apart_from_a_slow_device(tmp_path, caplog):
    def slow_batches(event):
        if event.startswith("batch"):
            time.sleep(0.05)

    _run(tmp_path / "input", _Toy(slow_batches))
    assert caplog.text.count("is spent waiting for clips, not for the device") == 1
    caplog.clear()

    def slow_steps(event):
        if event.startswith("step"):
            time.sleep(0.05)

    _run(tmp_path / "device", _Toy(slow_steps))
    assert "waiting for clips" not in caplog.text
    shares = {}
    for slow in ("input", "device"):
        text = (tmp_path / slow / "metrics.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines() if "loss" in line]
        for what in ("input", "device"):
            share = np.mean([line[f"{what}_wait_fraction"] for line in lines])
            shares[slow, what] = share
    assert shares["input", "input"] > 0.6 > shares["input", "device"]
    assert shares["device", "device"] > 0.6 > shares["device", "input"]


@pytest.mark.parametrize(
    ("what", "said"), [("input", "while the device is idle"), ("device", "clips are ready")]
)
def test_a_long_wait_says_what_for_while_it_lasts(what, said, monkeypatch, caplog):
    monkeypatch.setattr(diagnostics, "_LONG", 0.05)
    clock = diagnostics.StallMonitor("toy")
    with clock.waits(what):
        deadline = time.monotonic() + 20
        while said not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
    assert caplog.text.count(said) == 1


def test_similarity_is_the_mean_cosine_of_two_videos():
    generator = np.random.default_rng(0)
    bank = generator.normal(size=(5, 3)).astype(np.float32)
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    pairs = [bank[i] @ bank[j] for i in range(5) for j in range(5) if i != j]
    padded = jnp.pad(jnp.asarray(bank), ((0, 3), (0, 0)))
    np.testing.assert_allclose(diagnostics.mean_cosine(padded, 5), np.mean(pairs), rtol=1e-5)


def test_similarity_of_more_pairs_than_an_int32_counts():
    count = 60_000
    halves = np.repeat(np.eye(2, dtype=np.float32), count // 2, axis=0)
    expected = (count / 2 - 1) / (count - 1)  # the share of pairs within a half
    np.testing.assert_allclose(diagnostics.mean_cosine(halves, count), expected, rtol=1e-5)


def test_collapse_of_embeddings_and_of_clusters_is_said_once_each(caplog):
    collapse = diagnostics.Collapse("tune")
    for similarity in (0.999, 0.999, 0.9, 0.999, 0.999):
        collapse.check_embeddings(similarity)
    collapse.check_clusters(largest=70, num_videos=100)
    assert not caplog.text
    for _ in range(9):
        collapse.check_embeddings(0.999)
        collapse.check_clusters(largest=99, num_videos=100)
    assert caplog.text.count("nearly identical (mean cosine 0.999)") == 1
    assert caplog.text.count("one cluster has 99 of 100 videos") == 1
