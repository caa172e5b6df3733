"""The training loop: steps, logs, checkpoints, and what lies between two epochs.

Everything that changes lives in the state and goes into the checkpoint; step s of a run is the
same whether the run was interrupted before it or not. The checkpoint of an epoch's last step is
from before what follows the epoch (validation), which is done again after it is restored.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vcjax.runtime import checkpoint, hosts, metrics, preemption, progress
from vcjax.training import diagnostics
from vcjax.training.step import Batch, Scalars

log = logging.getLogger(__name__)


class Stage(NamedTuple):
    """What a training stage brings to the loop; its states are pytrees of arrays."""

    state: Any  # before the first step, and the template of its checkpoints
    take_over: Callable[[Any], Any]  # state -> the same with what another stage learned
    step: Callable[[Any, Batch, int], tuple[Any, Scalars]]
    batches: Callable[[int], Iterator[Batch]]  # from a step on
    begin_epoch: Callable[[Any, int], tuple[Any, Scalars]]  # state, epoch from 0
    end_epoch: Callable[[Any, int], tuple[Any, Scalars]]
    learning_rate: Callable[[Any, int], float]  # state, step
    video_ids: Sequence[str]  # of the rows that a batch's `index` means
    # a state -> the arrays of its checkpoint; first state, these -> the state, for these devices
    stored: Callable[[Any], dict[str, Any]] = lambda state: state._asdict()
    restored: Callable[[Any, dict[str, Any]], Any] = lambda first, found: type(first)(**found)
    # what `end_epoch` says -> how good the state before it is; None: it was not validated
    score: Callable[[Scalars], float | None] = lambda scalars: None


def run(
    name: str,
    config: ConfigDict,
    training: Stage,
    workdir: Path,
    *,
    num_epochs: int,
    steps_per_epoch: int,
) -> Any:
    """The state after all epochs, from the last checkpoint in `workdir/name` on.

    `name` is a stage of `config`, or a part STAGE/PART of one. Raises FloatingPointError when the
    loss is NaN or explodes, and interruption.Stopped, with a checkpoint, when that is asked for.
    """
    # opened inside: what is being written is finished before a request to stop is obeyed
    with preemption.deferred(), contextlib.ExitStack() as stack:
        return _Loop(
            name, config, training, workdir, num_epochs * steps_per_epoch, steps_per_epoch, stack
        ).run()


class _Loop:
    def __init__(
        self,
        name: str,
        config: ConfigDict,
        training: Stage,
        workdir: Path,
        num_steps: int,
        steps_per_epoch: int,
        stack: contextlib.ExitStack,
    ) -> None:
        self._name, self._training = name, training
        self._num_steps, self._steps_per_epoch = num_steps, steps_per_epoch
        stage = config[name.split("/")[0]]
        self._batch_size, self._log_steps = stage.batch_size, config.log_steps
        self._keeps_best = config.keep_best
        self._checkpoint_steps = stage.checkpoint_steps or steps_per_epoch
        directory = workdir / name
        self._checkpoints = stack.enter_context(
            contextlib.closing(checkpoint.Checkpoints(directory / "checkpoints"))
        )
        self._first = self._checkpoints.latest or 0
        self._window = diagnostics.Window(name, training.video_ids, directory)
        if self._first:
            self._window.learn_limit(hosts.on_first(lambda: metrics.first_loss(workdir, name)))
        self._writer = stack.enter_context(
            contextlib.closing(metrics.Writer(workdir, name, step=self._first))
        )
        self._clock = stack.enter_context(contextlib.closing(diagnostics.Clock(name)))
        self._bar = stack.enter_context(
            progress.bar(desc=name, unit="step", total=num_steps, initial=self._first)
        )

    def run(self) -> Any:
        state = self._first_state()
        batches = self._training.batches(self._first)
        for step in range(self._first, self._num_steps):
            if step % self._steps_per_epoch == 0:
                state = self._between_epochs(state, step)
            state = self._step(state, batches, step)
            self._after_step(state, step + 1)
        state = self._between_epochs(state, self._num_steps)
        if best := self._checkpoints.best:
            log.info("%s: best validation after step %d, %.3f", self._name, *best)
        return state

    def _first_state(self) -> Any:
        template = self._training.state
        if not self._first:
            return self._training.take_over(template)
        log.info(
            "%s: continues from the checkpoint of step %d of %d",
            self._name,
            self._first,
            self._num_steps,
        )
        found = self._checkpoints.restore(self._training.stored(template))
        return self._training.restored(template, found)

    def _between_epochs(self, state: Any, step: int) -> Any:
        """Ends the epoch before `step`, and begins that after it."""
        epoch, after = step // self._steps_per_epoch, state
        ended: Scalars = {}
        with self._kept_when_stopped(state, step):
            if step:
                after, ended = self._training.end_epoch(after, epoch - 1)
                self._write(step, ended)
            if step < self._num_steps:
                after, scalars = self._training.begin_epoch(after, epoch)
                self._write(step, scalars)
        if self._keeps_best and step:
            self._keep_if_best(state, step, ended)
        self._clock.restart()
        return after

    def _keep_if_best(self, state: Any, step: int, ended: Scalars) -> None:
        """Keeps the checkpoint of `state` if what its epoch ended with is the best so far."""
        score = hosts.on_first(lambda: self._training.score(ended))
        best = self._checkpoints.best
        if score is not None and score > (best.score if best else -math.inf):
            self._save(state, step)
            self._checkpoints.keep_best(step, score)

    def _step(self, state: Any, batches: Iterator[Batch], step: int) -> Any:
        with self._kept_when_stopped(state, step), self._clock.waits("input"):
            batch = next(batches)
        with self._clock.waits("device"):  # where its queue is full
            state, scalars = self._training.step(state, batch, step)
        self._window.add(step + 1, scalars, batch["index"])
        self._bar.update()
        return state

    def _after_step(self, state: Any, done: int) -> None:
        if done % self._steps_per_epoch == 0 or done % self._log_steps == 0:
            self._log(state, done)
        if done % self._checkpoint_steps == 0 or done == self._num_steps:
            self._save(state, done)
        if preemption.reached(self._checkpoints):
            self._keep(state, done)
            raise preemption.Stopped

    def _log(self, state: Any, done: int) -> None:
        num_clips = len(self._window) * self._batch_size
        with self._clock.waits("device"):
            scalars = self._window.close(self._checkpoints.latest)
        scalars |= self._clock.read(num_clips)
        if done - self._first > self._log_steps:  # readers and compiler have begun
            self._clock.warn_if_starved(scalars)
        scalars["learning_rate"] = self._training.learning_rate(state, done - 1)
        self._write(done, scalars)
        self._bar.set_postfix(
            loss=f"{scalars['loss']:.3f}",
            input=f"{100 * scalars['waiting_for_input']:.0f}%",
            refresh=False,
        )

    def _write(self, step: int, scalars: Scalars) -> None:
        if scalars:
            self._writer.write(step, scalars | {"epoch": step / self._steps_per_epoch})

    def _save(self, state: Any, done: int) -> None:
        """Writes the checkpoint, unless there is one already or something is not finite."""
        latest = self._checkpoints.latest
        if latest == done:
            return
        self._window.check(latest)
        if not diagnostics.is_finite((state.params, state.statistics)):
            self._window.fail_after_last("weights are not finite after the update", latest)
        self._checkpoints.save(done, self._training.stored(state))

    @contextlib.contextmanager
    def _kept_when_stopped(self, state: Any, step: int) -> Iterator[None]:
        """What is inside may be broken off; `state` is what there is after `step` steps."""
        try:
            with preemption.interruptible():
                yield
        except preemption.Stopped:
            self._keep(state, step)
            raise

    def _keep(self, state: Any, done: int) -> None:
        """Logs and saves what a run that stops has."""
        if len(self._window):
            self._log(state, done)
        if done:
            self._save(state, done)
            log.warning("%s: stopped after step %d; its checkpoint is kept", self._name, done)
