"""Metrics of a run, written as JSON lines and for TensorBoard."""

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import jax
import tensorboardX

from vcjax.runtime import atomic


class Writer:
    """Writer of the scalars of one stage.

    It appends to `workdir/metrics.jsonl` and to `workdir/tensorboard/<stage>`. Lines of the stage
    after `step`, left by a run that was killed after its last checkpoint, are dropped, because the
    resumed run writes them again. Lines of `step` itself without a loss, which are written between
    two epochs, are dropped as well. In a run of several processes only the first one writes.
    """

    def __init__(self, workdir: Path, stage: str, *, step: int = 0) -> None:
        self._stage = stage
        self._writes = jax.process_index() == 0
        if not self._writes:
            return
        path = workdir / "metrics.jsonl"
        _drop_later_lines(path, stage, step)
        self._file = path.open("a", encoding="utf-8")
        self._board = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard" / stage), purge_step=step + 1
        )

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Write `scalars` of a step; a value that is not finite becomes null."""
        if not self._writes:
            return
        values = {k: v if math.isfinite(v) else None for k, v in scalars.items()}
        event = {"stage": self._stage, "step": step} | values
        self._file.write(json.dumps(event, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close both files."""
        if self._writes:
            try:
                self._file.close()
            finally:
                self._board.close()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Close both files; an error of closing does not replace an error of the run.

        On a full disk, for example, a checkpoint fails first, and its error names the last one that
        is intact.
        """
        with contextlib.suppress(OSError) if error else contextlib.nullcontext():
            self.close()


def first_loss(workdir: Path, stage: str) -> float | None:
    """Return the first loss in `workdir/metrics.jsonl` of a stage, or None if it has none."""
    try:
        lines = (workdir / "metrics.jsonl").read_text("utf-8").splitlines()
    except FileNotFoundError:
        return None
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):  # the last line of a killed run
            event = json.loads(line)
            if event["stage"] == stage and event.get("loss") is not None:
                return float(event["loss"])
    return None


def _drop_later_lines(path: Path, stage: str, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text("utf-8").splitlines():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:  # the last line of a killed run
            continue
        if event["stage"] != stage or event["step"] < step + ("loss" in event):
            kept.append(line + "\n")
    atomic.write_text(path, "".join(kept))
