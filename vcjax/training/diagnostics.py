"""What goes wrong while training: a loss that explodes, collapse, and who waits for whom."""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vcjax.runtime import hosts, sharding
from vcjax.training.step import Scalars

log = logging.getLogger(__name__)

_EXPLODED = 10.0  # times the loss at first, or times 1 where that was less
_ALIKE = 0.99  # mean cosine of the embeddings of two videos
_EPOCHS_ALIKE = 3  # in a row; a network that has seen little finds all alike for a while
_TAKES_ALL = 0.8  # share of the videos in one cluster
_STARVED = 0.5  # share of the time
_LONG = 60.0  # seconds to wait before that is said


class Window:
    """Steps since the last log, their scalars left on the device until they are wanted."""

    def __init__(self, name: str, video_ids: Sequence[str], directory: Path) -> None:
        self._name, self._video_ids, self._directory = name, video_ids, directory
        self._limit = np.inf
        self._steps: list[tuple[int, Scalars, Array]] = []
        self._before: list[tuple[int, Scalars, Array]] = []  # the last of the window before

    def __len__(self) -> int:
        return len(self._steps)

    def learn_limit(self, first_loss: float | None) -> None:
        """Takes the loss that the stage began with as the measure of an explosion."""
        if first_loss is not None and not np.isfinite(self._limit):
            self._limit = _EXPLODED * max(first_loss, 1.0)

    def add(self, step: int, scalars: Scalars, index: Array) -> None:
        """Adds the outcome of `step`, counted from 1, on the videos of rows `index`."""
        self._steps.append((step, scalars, index))

    def close(self, latest: int | None) -> Scalars:
        """Means of the scalars; begins anew. Raises as `check` does."""
        host = self.check(latest)
        self._before, self._steps = self._steps[-1:], []
        means = {k: float(np.mean([s[k] for s in host])) for k in host[0]}
        self.learn_limit(means["loss"])
        return means

    def check(self, latest: int | None) -> list[Scalars]:
        """Scalars of the steps. Raises FloatingPointError for a loss that is NaN or exploded.

        It names the videos of that step, and the checkpoint of step `latest` as the last good one.
        """
        host = jax.device_get([scalars for _, scalars, _ in self._steps])
        losses = np.array([scalars["loss"] for scalars in host])
        bad = ~np.isfinite(losses)
        if not bad.any() and len(losses) and losses.mean() > self._limit:
            bad = losses > self._limit
        if bad.any():
            first = int(bad.argmax())
            steps = self._before + self._steps[: first + 1]
            self._fail(f"the loss is {losses[first]:.4g}", steps, latest)
        return host

    def fail_after_last(self, what: str, latest: int | None) -> None:
        """Raises FloatingPointError for `what` the last step has led to."""
        self._fail(what, self._before + self._steps, latest)

    def _fail(self, what: str, steps: list[Any], latest: int | None) -> None:
        # weights that the step before the last spoiled show in the loss of the last
        videos = {step: self._videos(index) for step, _, index in steps[-2:]}
        step = steps[-1][0]
        if hosts.is_first():
            told = {"step": step, "problem": what, "video_ids": videos}
            (self._directory / "bad_batch.json").write_text(json.dumps(told, indent=1))
        last = f"the last good checkpoint is {self._directory / 'checkpoints' / str(latest)}"
        raise FloatingPointError(
            f"{self._name}: {what} at step {step}; {last if latest else 'there is no checkpoint'}. "
            f"Its batch: {_listed(videos[step])} (all, and of the step before: "
            f"{self._directory / 'bad_batch.json'}). Look at these videos, or lower "
            f"--config.{self._name.split('/')[0]}.learning_rate, and run again"
        )

    def _videos(self, index: Array) -> list[str]:
        return [self._video_ids[row] for row in np.asarray(sharding.gather(index))]


def _listed(video_ids: Sequence[str], most: int = 8) -> str:
    return ", ".join(video_ids[:most]) + (", ..." if len(video_ids) > most else "")


@jax.jit
def is_finite(arrays: Any) -> Array:
    """Whether all numbers of a pytree of arrays are."""
    return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(arrays)]))


class Clock:
    """How long the loop waits for its input and for the device; says so while it waits long.

    A device that is the slower keeps the loop waiting when it asks for results; readers that are
    the slower keep it waiting for clips, while the device has nothing to do.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._waiting: tuple[str, float] | None = None
        self._closed = threading.Event()
        self._starved = False
        self.restart()
        threading.Thread(target=self._look, daemon=True).start()

    def restart(self) -> None:
        """Begins to count anew."""
        self._begin = time.monotonic()
        self._waited = {"input": 0.0, "device": 0.0}

    @contextlib.contextmanager
    def waits(self, what: str) -> Iterator[None]:
        """Counts the time inside as waiting for "input" or "device"."""
        begin = time.monotonic()
        self._waiting = what, begin
        try:
            yield
        finally:
            self._waiting = None
            self._waited[what] += time.monotonic() - begin

    def read(self, num_clips: int) -> Scalars:
        """Clips a second, and the shares of the time that went into waiting; begins anew."""
        seconds = time.monotonic() - self._begin
        shares = {f"waiting_for_{k}": round(v / seconds, 3) for k, v in self._waited.items()}
        self.restart()
        return {"clips_per_second": round(num_clips / seconds, 2)} | shares

    def warn_if_starved(self, scalars: Scalars) -> None:
        """Says once that the input is what takes the time."""
        if scalars["waiting_for_input"] > _STARVED and not self._starved:
            self._starved = True
            log.warning(
                "%s: %.0f%% of the time goes into waiting for clips, not for the device: %s",
                self._name,
                100 * scalars["waiting_for_input"],
                _READING,
            )

    def close(self) -> None:
        """Ends the watching."""
        self._closed.set()

    def _look(self) -> None:
        said: tuple[str, float] | None = None
        while not self._closed.wait(_LONG / 10):
            waiting = self._waiting
            if waiting and waiting != said and time.monotonic() - waiting[1] > _LONG:
                said = waiting
                why = (
                    f"for clips, the device has nothing to do: {_READING}"
                    if waiting[0] == "input"
                    else "for the device (the first step compiles); clips are there"
                )
                log.warning("%s: waiting since %.0f s %s", self._name, _LONG, why)


_READING = (
    "more --config.data.num_threads or num_workers, a faster disk, or shards (vcjax data prepare)"
)


def similarity(bank: Float[Array, "rows d"], num_videos: int) -> float:
    """Mean cosine of the embeddings of two videos: 1 where all are alike."""
    total = _sum_of_rows(bank)
    return float((total @ total - num_videos) / max(1, num_videos * (num_videos - 1)))


@jax.jit
def _sum_of_rows(bank: Float[Array, "rows d"]) -> Float[Array, " d"]:
    return bank.sum(axis=0, dtype=jnp.float32)  # padding is zero


class Collapse:
    """Warns, of each kind once, of a stage whose embeddings or clusters say nothing any more."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._said: set[str] = set()
        self._epochs_alike = 0

    def see_embeddings(self, similarity: float) -> None:
        """Looks at the mean cosine of two videos after an epoch."""
        self._epochs_alike = self._epochs_alike + 1 if similarity > _ALIKE else 0
        if self._epochs_alike == _EPOCHS_ALIKE:
            self._warn(
                "embeddings",
                f"the embeddings of all videos are alike (mean cosine {similarity:.3f}): try a "
                f"lower --config.{self._name}.learning_rate, a longer warm-up, or more negatives",
            )

    def see_clusters(self, largest: int, num_videos: int) -> None:
        """Looks at the size of the largest cluster."""
        if largest > _TAKES_ALL * num_videos:
            self._warn(
                "clusters",
                f"one cluster has {largest} of {num_videos} videos: try other "
                "--config.clusters.num_clusters or num_runs, and look whether the embeddings "
                "(similarity in metrics.jsonl) or Fisher vectors that they are made of are alike",
            )

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            log.warning("%s: %s", self._name, message)
