"""Monitoring of training: a non-finite or exploding loss, collapse, and slow input."""

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

_EXPLODED = 10.0  # factor over max(first loss, 1)
_LARGEST_WEIGHT = 1e4  # far above trained weights; activations of larger ones overflow
_ALIKE = 0.99  # mean cosine similarity of the embeddings of two videos
_EPOCHS_ALIKE = 3  # consecutive epochs; early in training, similar embeddings are normal
_TAKES_ALL = 0.8  # fraction of the videos in the largest cluster
_STARVED = 0.5  # fraction of the time spent waiting for clips
_LONG = 60.0  # seconds of waiting before a warning


class LossMonitor:
    """The training steps since the last log; their scalars stay on the device until then."""

    def __init__(self, name: str, video_ids: Sequence[str], directory: Path) -> None:
        self._name, self._video_ids, self._directory = name, video_ids, directory
        self._limit = np.inf
        self._steps: list[tuple[int, Scalars, Array]] = []
        self._before: list[tuple[int, Scalars, Array]] = []  # last step of the previous window

    def __len__(self) -> int:
        return len(self._steps)

    def set_limit(self, first_loss: float | None) -> None:
        """Set the limit of the loss from the first loss of the stage, unless it is set."""
        if first_loss is not None and not np.isfinite(self._limit):
            self._limit = _EXPLODED * max(first_loss, 1.0)

    def add(self, step: int, scalars: Scalars, index: Array) -> None:
        """Add the scalars of `step`, counted from 1, trained on the bank rows `index`."""
        self._steps.append((step, scalars, index))

    def close(self, latest: int | None) -> Scalars:
        """Return the mean of each scalar and start an empty window. Raises like `check`."""
        host = self.check(latest)
        self._before, self._steps = self._steps[-1:], []
        means = {k: float(np.mean([s[k] for s in host])) for k in host[0]}
        self.set_limit(means["loss"])
        return means

    def check(self, latest: int | None) -> list[Scalars]:
        """Return the scalars of the steps, after a check of their losses.

        A loss is bad if it is not finite, or if the mean loss of the window and the loss itself
        exceed the limit.

        Args:
          latest: step of the newest checkpoint, which the error names as the last good one.

        Raises:
          FloatingPointError: if a loss is bad; the message names the videos of the first bad step.
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

    def fail_after_last(self, problem: str, latest: int | None) -> None:
        """Raise FloatingPointError for a `problem` caused by the last step."""
        self._fail(problem, self._before + self._steps, latest)

    def _fail(self, problem: str, steps: list[Any], latest: int | None) -> None:
        # The step before is included: weights that it corrupted show only in the loss of the next.
        videos = {step: self._videos(index) for step, _, index in steps[-2:]}
        step = steps[-1][0]
        if hosts.is_primary():
            report = {"step": step, "problem": problem, "video_ids": videos}
            (self._directory / "bad_batch.json").write_text(json.dumps(report, indent=1), "utf-8")
        last = f"the last good checkpoint is {self._directory / 'checkpoints' / str(latest)}"
        raise FloatingPointError(
            f"{self._name}: {problem} at step {step}; "
            f"{last if latest else 'there is no checkpoint'}. "
            f"Its batch: {_listed(videos[step])} (complete list, with the batch of the previous "
            f"step: {self._directory / 'bad_batch.json'}). Inspect these videos or lower "
            f"--config.{self._name.split('/')[0]}.learning_rate, then run again"
        )

    def _videos(self, index: Array) -> list[str]:
        return [self._video_ids[row] for row in np.asarray(sharding.gather(index))]


def _listed(video_ids: Sequence[str], most: int = 8) -> str:
    return ", ".join(video_ids[:most]) + (", ..." if len(video_ids) > most else "")


def problem_of_weights(params: Any, statistics: Any) -> str:
    """Return the problem of weights that have diverged, or "" if they have not.

    Batch normalization hides weights that grow without bound from the loss: only embeddings with
    running statistics overflow, to zero.
    """
    if not is_finite((params, statistics)):
        return "weights are not finite after the update"
    if (largest := float(_largest(params))) > _LARGEST_WEIGHT:
        return f"training has diverged: a weight is {largest:.2g} after the update"
    return ""


@jax.jit
def _largest(arrays: Any) -> Array:
    return jnp.stack([jnp.abs(x).max() for x in jax.tree.leaves(arrays)]).max()


@jax.jit
def is_finite(arrays: Any) -> Array:
    """Return True if every element of every array in the pytree is finite."""
    return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(arrays)]))


class StallMonitor:
    """Stopwatch of the time that the training loop waits for clips and for the device.

    If the device is slower than the readers, the loop waits for results of the device. If the
    readers are slower, the loop waits for clips while the device is idle. A warning is logged
    during a single wait of more than a minute.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._starved = False
        self.restart()

    def restart(self) -> None:
        """Reset all times to zero."""
        self._begin = time.monotonic()
        self._waited = {"input": 0.0, "device": 0.0}

    @contextlib.contextmanager
    def waits(self, source: str) -> Iterator[None]:
        """Count the time inside the context as waiting for `source`, "input" or "device"."""
        begin = time.monotonic()
        warning = threading.Timer(_LONG, self._warn_of_wait, [source])
        warning.daemon = True
        warning.start()
        try:
            yield
        finally:
            warning.cancel()
            self._waited[source] += time.monotonic() - begin

    def read(self, num_clips: int) -> Scalars:
        """Return clips per second and the fractions of time spent waiting, then reset."""
        seconds = time.monotonic() - self._begin
        shares = {f"{k}_wait_fraction": round(v / seconds, 3) for k, v in self._waited.items()}
        self.restart()
        return {"clips_per_second": round(num_clips / seconds, 2)} | shares

    def warn_if_starved(self, scalars: Scalars) -> None:
        """Log a warning, at most once, if most of the time is spent waiting for clips."""
        if scalars["input_wait_fraction"] > _STARVED and not self._starved:
            self._starved = True
            log.warning(
                "%s: %.0f%% of the time is spent waiting for clips, not for the device: try %s",
                self._name,
                100 * scalars["input_wait_fraction"],
                _READING,
            )

    def _warn_of_wait(self, source: str) -> None:
        reason = (
            f"clips while the device is idle: try {_READING}"
            if source == "input"
            else "the device (the first step compiles); clips are ready"
        )
        log.warning("%s: waiting for %.0f s for %s", self._name, _LONG, reason)


_READING = (
    "more --config.data.num_threads or num_workers, a faster disk, or smaller frames "
    "(--config.data.side)"
)


def mean_cosine(bank: Float[Array, "rows d"], num_videos: int) -> float:
    """Return the mean cosine similarity of two different videos in [-1, 1].

    `bank` may have rows of zeros after the first `num_videos`. With unit rows v_i, the sum over all
    pairs i != j of <v_i, v_j> is |sum_i v_i|^2 - n.
    """
    total = _sum_of_rows(bank)
    # the number of pairs exceeds an int32 of JAX from 46,342 videos on
    return (float(total @ total) - num_videos) / max(1, num_videos * (num_videos - 1))


@jax.jit
def _sum_of_rows(bank: Float[Array, "rows d"]) -> Float[Array, " d"]:
    return bank.sum(axis=0, dtype=jnp.float32)  # rows of padding are zero


class Collapse:
    """Detector of collapsed embeddings and clusters, which warns at most once of each."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._warned: set[str] = set()
        self._epochs_alike = 0

    def check_embeddings(self, mean_cosine: float) -> None:
        """Check the mean cosine similarity of two videos after an epoch."""
        self._epochs_alike = self._epochs_alike + 1 if mean_cosine > _ALIKE else 0
        if self._epochs_alike == _EPOCHS_ALIKE:
            self._warn(
                "embeddings",
                f"all embeddings are nearly identical (mean cosine {mean_cosine:.3f}): try a lower "
                f"--config.{self._name}.learning_rate, a longer warm-up, or more negatives",
            )

    def check_clusters(self, largest: int, num_videos: int) -> None:
        """Check the number of videos in the largest cluster."""
        if largest > _TAKES_ALL * num_videos:
            self._warn(
                "clusters",
                f"one cluster has {largest} of {num_videos} videos: try other values of "
                "--config.clusters.num_clusters or num_runs, and check if the embeddings "
                "(bank_mean_cosine in metrics.jsonl) or the Fisher vectors are nearly identical",
            )

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning("%s: %s", self._name, message)
