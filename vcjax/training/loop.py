"""Logs, checkpoints and stops of the training loops in `pretrain` and `finetune`.

A loop has this form:

    with loop.training_run(name, config, workdir, ...) as run:
        if run.resumes:
            state = State(**run.restore(state._asdict()))
        batches = ...  # from step run.step on
        for _ in run.epochs():
            for batch in run.batches(batches):
                with run.dispatching():
                    state, scalars = train_step(state, batch, run.step)
                run.end_step(state, scalars, batch["index"])
            with run.interruptible():
                scalars = validate(state)
            run.end_epoch(scalars)

All mutable state is in the checkpoint, so step s of a run is the same whether or not the run was
interrupted before s. The checkpoint of the last step of an epoch is taken before the work that
ends the epoch (validation), which is repeated after that checkpoint is restored.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Array
from ml_collections import ConfigDict

from vcjax.runtime import checkpoint, hosts, metrics, preemption, progress
from vcjax.training import diagnostics
from vcjax.training.step import Batch, Scalars

log = logging.getLogger(__name__)


@contextlib.contextmanager
def training_run(
    name: str,
    config: ConfigDict,
    workdir: Path,
    *,
    video_ids: Sequence[str],
    num_epochs: int,
    steps_per_epoch: int,
    learning_rate: Callable[[Any, int], float],
    stored: Callable[[Any], dict[str, Any]] = lambda state: state._asdict(),
) -> Iterator["TrainingRun"]:
    """Open the checkpoints and the logs of a stage; close them when the context closes.

    A request to stop is deferred while the context is open: to the end of a step, or to a context
    `TrainingRun.interruptible`.

    Args:
      name: a section of `config`, or a part of it as STAGE/PART.
      config: the settings of the run.
      workdir: folder of the run; checkpoints are written to `workdir/name/checkpoints`.
      video_ids: ids of the training videos, by row of the bank, as in a batch's `index`.
      num_epochs: total number of epochs.
      steps_per_epoch: training steps per epoch.
      learning_rate: (state after a step, number of the step from 0) -> its learning rate.
      stored: state -> arrays of its checkpoint.

    Raises:
      FloatingPointError: if the loss is not finite or explodes, or a weight is not finite.
      preemption.StopRequested: on request, after a checkpoint was written.
    """
    # The stack closes inside `defer_stop`: pending checkpoints are written before a stop is raised.
    with preemption.defer_stop(), contextlib.ExitStack() as stack:
        yield TrainingRun(
            name,
            config,
            workdir,
            stack,
            video_ids=video_ids,
            num_epochs=num_epochs,
            steps_per_epoch=steps_per_epoch,
            learning_rate=learning_rate,
            stored=stored,
        )


class TrainingRun:
    """Progress of a training stage: its step and epoch, and the state after the last step.

    A stop saves the state after the last step, without the work between two epochs, which the
    resumed run repeats. `training_run` opens it.
    """

    def __init__(
        self,
        name: str,
        config: ConfigDict,
        workdir: Path,
        stack: contextlib.ExitStack,
        *,
        video_ids: Sequence[str],
        num_epochs: int,
        steps_per_epoch: int,
        learning_rate: Callable[[Any, int], float],
        stored: Callable[[Any], dict[str, Any]],
    ) -> None:
        self._name, self._num_epochs, self._steps_per_epoch = name, num_epochs, steps_per_epoch
        self._num_steps = num_epochs * steps_per_epoch
        self._learning_rate, self._stored = learning_rate, stored
        stage = config[name.split("/")[0]]
        self._batch_size, self._log_steps = stage.batch_size, config.log_steps
        self._keeps_best = config.keep_best
        self._checkpoint_steps = stage.checkpoint_steps or steps_per_epoch
        directory = workdir / name
        self._checkpoints = stack.enter_context(
            contextlib.closing(checkpoint.Checkpoints(directory / "checkpoints"))
        )
        self._first = self.step = self._checkpoints.latest or 0
        self._state: Any = None  # after the last step of this process
        self._epoch = 0
        self._window = diagnostics.LossMonitor(name, video_ids, directory)
        if self._first:
            self._window.set_limit(hosts.run_on_primary(lambda: metrics.first_loss(workdir, name)))
        self._writer = stack.enter_context(metrics.Writer(workdir, name, step=self._first))
        self._clock = diagnostics.StallMonitor(name)
        self._bar = stack.enter_context(
            progress.bar(desc=name, unit="step", total=self._num_steps, initial=self._first)
        )

    @property
    def resumes(self) -> bool:
        """True if the stage has a checkpoint to resume from."""
        return self._first > 0

    @property
    def begins_epoch(self) -> bool:
        """True if no step of the current epoch is done."""
        return self.step == self._epoch * self._steps_per_epoch

    def restore(self, template: dict[str, Any]) -> dict[str, Any]:
        """Return the arrays of the newest checkpoint, like `template`."""
        log.info(
            "%s: continues from the checkpoint of step %d of %d",
            self._name,
            self._first,
            self._num_steps,
        )
        return self._checkpoints.restore(template)

    def epochs(self) -> Iterator[int]:
        """Yield the epochs, from 0, whose end is not yet processed.

        An epoch whose last step has a checkpoint is yielded again, since its checkpoint is taken
        before the work that ends it; it has no batches.
        """
        first = max(self.step - 1, 0) // self._steps_per_epoch
        for epoch in range(min(first, self._num_epochs - 1), self._num_epochs):
            self._epoch = epoch
            yield epoch
        if best := self._checkpoints.best:
            log.info("%s: best validation after step %d, %.3f", self._name, *best)

    def batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches of the remaining steps of the current epoch."""
        self._clock.restart()
        while self.step < (self._epoch + 1) * self._steps_per_epoch:
            with self.interruptible(), self._clock.waits("input"):
                batch = next(batches)
            yield batch

    def dispatching(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which a step is dispatched to the device.

        Dispatch blocks if the queue of the device is full.
        """
        return self._clock.waits("device")

    def end_step(self, state: Any, scalars: Scalars, index: Array) -> None:
        """Count a step, write logs and checkpoints when they are due, and stop if requested.

        Args:
          state: the state after the step.
          scalars: scalars of the step, on the device.
          index: rows of the bank of the step's batch.
        """
        self.step += 1
        self._state = state
        self._window.add(self.step, scalars, index)
        self._bar.update()
        if self.step % self._steps_per_epoch == 0 or self.step % self._log_steps == 0:
            self._log_window()
        if self.step % self._checkpoint_steps == 0 or self.step == self._num_steps:
            self._save()
        if preemption.stop_requested(self._checkpoints):
            self._keep()
            raise preemption.StopRequested

    def end_epoch(self, scalars: Scalars, score: float | None = None) -> None:
        """Log `scalars`, and keep the checkpoint of the last step if it has the best `score`.

        The score of the first process counts; None: the epoch was not validated.
        """
        self.log(scalars)
        if not self._keeps_best:
            return
        score = hosts.run_on_primary(lambda: score)
        best = self._checkpoints.best
        if score is not None and score > (best.score if best else -math.inf):
            self._save()
            self._checkpoints.keep_best(self.step, score)

    def log(self, scalars: Scalars) -> None:
        """Write `scalars` to the metrics of the last step."""
        if scalars:
            self._writer.write(self.step, scalars | {"epoch": self.step / self._steps_per_epoch})

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Allow an immediate stop inside the context; the state of the last step is then saved."""
        try:
            with preemption.interruptible():
                yield
        except preemption.StopRequested:
            self._keep()
            raise

    def _log_window(self) -> None:
        num_clips = len(self._window) * self._batch_size
        with self._clock.waits("device"):
            scalars = self._window.close(self._checkpoints.latest)
        scalars |= self._clock.read(num_clips)
        if self.step - self._first > self._log_steps:  # readers have started, the step is compiled
            self._clock.warn_if_starved(scalars)
        scalars["learning_rate"] = self._learning_rate(self._state, self.step - 1)
        self.log(scalars)
        self._bar.set_postfix(
            loss=f"{scalars['loss']:.3f}",
            input=f"{100 * scalars['input_wait_fraction']:.0f}%",
            refresh=False,
        )

    def _save(self) -> None:
        """Write the checkpoint unless it exists; raise if training has diverged."""
        latest = self._checkpoints.latest
        if latest == self.step:
            return
        self._window.check(latest)
        problem = diagnostics.problem_of_weights(self._state.params, self._state.statistics)
        if problem:
            self._window.fail_after_last(problem, latest)
        self._checkpoints.save(self.step, self._stored(self._state))

    def _keep(self) -> None:
        """Log the metrics and save the state of a run that stops."""
        if len(self._window):
            self._log_window()
        if self.step:
            self._save()
            log.warning("%s: stopped after step %d; its checkpoint is kept", self._name, self.step)
