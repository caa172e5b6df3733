"""What a run says while it goes on: one JSON line an event, and TensorBoard."""

import contextlib
import json
from pathlib import Path

import jax
import tensorboardX

from vcjax.runtime import atomic


class Writer:
    """Scalars of one stage, into `workdir/metrics.jsonl` and `workdir/tensorboard/<stage>`.

    Lines of the same stage from steps after `step`, left by a run that was killed between a
    checkpoint and its next, are dropped: they are about to be written again. So are those of `step`
    without a loss, from between two epochs. Of several processes only the first writes.
    """

    def __init__(self, workdir: Path, stage: str, *, step: int = 0) -> None:
        self._stage = stage
        self._writes = jax.process_index() == 0
        if not self._writes:
            return
        path = workdir / "metrics.jsonl"
        _forget(path, stage, step)
        self._file = path.open("a")
        self._board = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard" / stage), purge_step=step + 1
        )

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes `scalars` of a step."""
        if not self._writes:
            return
        self._file.write(json.dumps({"stage": self._stage, "step": step} | scalars) + "\n")
        self._file.flush()
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes both files."""
        if self._writes:
            self._file.close()
            self._board.close()


def first_loss(workdir: Path, stage: str) -> float | None:
    """The first loss that a stage has written, or None."""
    try:
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return None
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):  # the last line of a killed run
            event = json.loads(line)
            if event["stage"] == stage and "loss" in event:
                return float(event["loss"])
    return None


def _forget(path: Path, stage: str, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:  # the last line of a killed run
            continue
        if event["stage"] != stage or event["step"] < step + ("loss" in event):
            kept.append(line + "\n")
    atomic.write_text(path, "".join(kept))
