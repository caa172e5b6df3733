"""The training loop: steps, logs, checkpoints, and the work between two epochs.

All mutable state is in the checkpoint, so step s of a run is the same whether or not the run was
interrupted before s. The checkpoint of the last step of an epoch is taken before the work that
ends the epoch (validation), which is repeated after that checkpoint is restored.
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
    """The functions of a training stage that the loop calls; states are pytrees of arrays."""

    state: Any  # initial state, and the template of the checkpoints
    take_over: Callable[[Any], Any]  # state -> state initialized from another stage
    step: Callable[[Any, Batch, int], tuple[Any, Scalars]]
    batches: Callable[[int], Iterator[Batch]]  # first step -> batches of this and later steps
    begin_epoch: Callable[[Any, int], tuple[Any, Scalars]]  # state, epoch from 0
    end_epoch: Callable[[Any, int], tuple[Any, Scalars]]
    learning_rate: Callable[[Any, int], float]  # state, step
    video_ids: Sequence[str]  # by row of the bank, as in a batch's `index`
    # state -> arrays of its checkpoint
    stored: Callable[[Any], dict[str, Any]] = lambda state: state._asdict()
    # initial state, restored arrays -> state on the current devices
    restored: Callable[[Any, dict[str, Any]], Any] = lambda first, arrays: type(first)(**arrays)
    # scalars of `end_epoch` -> score of the state before it, or None if it was not validated
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
    """Train a stage, resuming from its last checkpoint, and return the state after all epochs.

    Args:
      name: a section of `config`, or a part of it as STAGE/PART.
      config: the settings of the run.
      training: the functions and the initial state of the stage.
      workdir: folder of the run; checkpoints are written to `workdir/name/checkpoints`.
      num_epochs: total number of epochs.
      steps_per_epoch: training steps per epoch.

    Raises:
      FloatingPointError: if the loss is not finite or explodes, or a weight is not finite.
      interruption.Stopped: on request, after a checkpoint was written.
    """
    # The stack closes inside `deferred`: pending checkpoints are written before a stop is raised.
    with preemption.defer_stop(), contextlib.ExitStack() as stack:
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
        self._window = diagnostics.LossMonitor(name, training.video_ids, directory)
        if self._first:
            self._window.set_limit(hosts.run_on_primary(lambda: metrics.first_loss(workdir, name)))
        self._writer = stack.enter_context(
            contextlib.closing(metrics.Writer(workdir, name, step=self._first))
        )
        self._clock = stack.enter_context(contextlib.closing(diagnostics.StallMonitor(name)))
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
        arrays = self._checkpoints.restore(self._training.stored(template))
        return self._training.restored(template, arrays)

    def _between_epochs(self, state: Any, step: int) -> Any:
        """End the epoch before `step`, and begin the epoch after `step`."""
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
        """Keep the checkpoint of `state` if its epoch ended with the best score so far."""
        score = hosts.run_on_primary(lambda: self._training.score(ended))
        best = self._checkpoints.best
        if score is not None and score > (best.score if best else -math.inf):
            self._save(state, step)
            self._checkpoints.keep_best(step, score)

    def _step(self, state: Any, batches: Iterator[Batch], step: int) -> Any:
        with self._kept_when_stopped(state, step), self._clock.waits("input"):
            batch = next(batches)
        with self._clock.waits("device"):  # dispatch blocks if the queue of the device is full
            state, scalars = self._training.step(state, batch, step)
        self._window.add(step + 1, scalars, batch["index"])
        self._bar.update()
        return state

    def _after_step(self, state: Any, done: int) -> None:
        if done % self._steps_per_epoch == 0 or done % self._log_steps == 0:
            self._log(state, done)
        if done % self._checkpoint_steps == 0 or done == self._num_steps:
            self._save(state, done)
        if preemption.stop_requested(self._checkpoints):
            self._keep(state, done)
            raise preemption.StopRequested

    def _log(self, state: Any, done: int) -> None:
        num_clips = len(self._window) * self._batch_size
        with self._clock.waits("device"):
            scalars = self._window.close(self._checkpoints.latest)
        scalars |= self._clock.read(num_clips)
        if done - self._first > self._log_steps:  # readers have started and the step is compiled
            self._clock.warn_if_starved(scalars)
        scalars["learning_rate"] = self._training.learning_rate(state, done - 1)
        self._write(done, scalars)
        self._bar.set_postfix(
            loss=f"{scalars['loss']:.3f}",
            input=f"{100 * scalars['input_wait_fraction']:.0f}%",
            refresh=False,
        )

    def _write(self, step: int, scalars: Scalars) -> None:
        if scalars:
            self._writer.write(step, scalars | {"epoch": step / self._steps_per_epoch})

    def _save(self, state: Any, done: int) -> None:
        """Write the checkpoint unless it exists; raise if the loss or a weight is not finite."""
        latest = self._checkpoints.latest
        if latest == done:
            return
        self._window.check(latest)
        if not diagnostics.is_finite((state.params, state.statistics)):
            self._window.fail_after_last("weights are not finite after the update", latest)
        self._checkpoints.save(done, self._training.stored(state))

    @contextlib.contextmanager
    def _kept_when_stopped(self, state: Any, step: int) -> Iterator[None]:
        """Allow an immediate stop inside the context; save `state`, at `step`, in that case."""
        try:
            with preemption.interruptible():
                yield
        except preemption.StopRequested:
            self._keep(state, step)
            raise

    def _keep(self, state: Any, done: int) -> None:
        """Log the metrics and save the state of a run that stops."""
        if len(self._window):
            self._log(state, done)
        if done:
            self._save(state, done)
            log.warning("%s: stopped after step %d; its checkpoint is kept", self._name, done)
