"""Transfer of the per-video state of a training stage when the collection of videos changes.

`checkpoints/videos.txt` has the `video_id` of each row of the bank and of each column of the
labels. A new video gets a random row, seeded by its id, and a cluster of its own until the stage
clusters again.
"""

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Float, Int

from vcjax.data import splits
from vcjax.runtime import atomic, checkpoint, hosts, previous_result, sharding

log = logging.getLogger(__name__)

_VIDEOS = "videos.txt"


def remap_checkpoint(
    video_ids: Sequence[str],
    template: Callable[[], dict[str, Any]],
    checkpoints: Path,
    *,
    batch_size: int,
    max_share: float,
    seed: int,
) -> None:
    """Rewrite the newest checkpoint for `video_ids` if the videos have changed since.

    The rewritten checkpoint is at the same epoch and, as far as the new number of steps per epoch
    allows, at the same step within the epoch.

    Args:
      video_ids: the current videos, in the order of the rows of the bank.
      template: returns the arrays of a checkpoint for `video_ids`, with their shapes and shardings;
        called only if the videos have changed.
      checkpoints: the folder of the checkpoints of the stage.
      batch_size: clips per step, from which the steps per epoch follow.
      max_share: if more than this fraction of the videos has changed, the checkpoints are set
        aside and the stage starts from the beginning.
      seed: seed of the bank rows of new videos.
    """
    hosts.run_on_primary(lambda: _finish_swap(checkpoints))
    with contextlib.closing(checkpoint.Checkpoints(checkpoints)) as reader:
        step = reader.latest
    if not hosts.run_on_primary(lambda: _needs_remap(checkpoints, step, video_ids, max_share)):
        return
    assert step is not None
    arrays = template()
    old_ids = _read_videos(checkpoints)
    new_step = _convert_step(step, *(len(ids) // batch_size for ids in (old_ids, video_ids)))
    taken = restore(checkpoints, arrays, video_ids, seed=seed)
    taken["optimizer"] = _set_count(taken["optimizer"], new_step)
    new = _new_folder(checkpoints)
    hosts.run_on_primary(lambda: shutil.rmtree(new, ignore_errors=True))
    with contextlib.closing(checkpoint.Checkpoints(new)) as writer:
        writer.save(new_step, taken)
    hosts.run_on_primary(lambda: _swap(checkpoints, video_ids))
    removed, added = len(set(old_ids) - set(video_ids)), len(set(video_ids) - set(old_ids))
    log.info(
        "collection changed: %d videos removed, %d added; state of the remaining videos is kept",
        removed,
        added,
    )


def _needs_remap(
    checkpoints: Path,
    step: int | None,
    video_ids: Sequence[str],
    max_share: float,
) -> bool:
    """Return True if the checkpoint of `step` has to be rewritten for `video_ids`.

    Otherwise `video_ids` are recorded as the videos of the checkpoints. If too many videos have
    changed, the checkpoints are set aside first.
    """
    old_ids = _read_videos(checkpoints)
    if step is not None and old_ids:
        if old_ids == tuple(video_ids):
            return False
        if splits.mostly_unchanged(old_ids, video_ids, max_share=max_share):
            return True
        log.info("more than data.max_changed_share of the videos changed: the stage starts over")
        previous_result.set_part_aside(checkpoints)
    _write_videos(checkpoints, video_ids)
    return False


def restore(
    checkpoints: Path, template: dict[str, Any], video_ids: Sequence[str], *, seed: int
) -> dict[str, Any]:
    """Return the entries of the newest checkpoint that `template` has.

    The rows of the bank and the columns of the labels are reordered to match `video_ids`.

    Raises:
      FileNotFoundError: if there is no checkpoint.
    """
    old_ids = _read_videos(checkpoints)
    if not old_ids or old_ids == tuple(video_ids):
        return checkpoint.restore_part(checkpoints, template)
    shapes = checkpoint.shapes(checkpoints)
    by_row = {k: template[k] for k in ("bank", "labels") if k in template}
    # Replicated, since the old number of rows may not be divisible by the number of devices.
    whole = sharding.replicated(sharding.make())
    stored = {
        k: jax.ShapeDtypeStruct(shapes[k], v.dtype, sharding=whole) for k, v in by_row.items()
    }
    restored = checkpoint.restore_part(checkpoints, template | stored)
    old_rows = {video_id: row for row, video_id in enumerate(old_ids)}
    rows = np.array([old_rows.get(video_id, -1) for video_id in video_ids])  # -1: a new video
    old = {k: np.asarray(restored[k].addressable_data(0)) for k in by_row}
    new = {"bank": _remap_bank(old["bank"], rows, video_ids, seed=seed)}
    if "labels" in old:
        new["labels"] = _remap_labels(old["labels"][:, : len(old_ids)], rows)
    return restored | {k: _place(new[k], like) for k, like in by_row.items()}


def _remap_bank(
    bank: Float[np.ndarray, "m d"],
    rows: Int[np.ndarray, " n"],
    video_ids: Sequence[str],
    *,
    seed: int,
) -> Float[np.ndarray, "n d"]:
    taken = bank[rows]
    for row in np.flatnonzero(rows < 0).tolist():
        digest = hashlib.sha256(video_ids[row].encode("utf-8", "surrogatepass")).digest()
        generator = np.random.default_rng([seed, *np.frombuffer(digest, np.uint32)])
        fresh = generator.uniform(-1, 1, bank.shape[1])
        taken[row] = fresh / np.linalg.norm(fresh)
    return taken


def _remap_labels(
    labels: Int[np.ndarray, "runs m"], rows: Int[np.ndarray, " n"]
) -> Int[np.ndarray, "runs n"]:
    taken = labels[:, rows]
    new = np.flatnonzero(rows < 0)
    taken[:, new] = labels.max(axis=1, keepdims=True) + 1 + np.arange(len(new), dtype=labels.dtype)
    return taken


def _place(values: np.ndarray, like: jax.Array) -> jax.Array:
    """Return `values`, padded with zeros to the shape of `like`, with its dtype and sharding."""
    filled = np.zeros(like.shape, like.dtype)
    filled[tuple(slice(size) for size in values.shape)] = values
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: filled[index])


def _convert_step(step: int, old: int, new: int) -> int:
    """Convert `step` from epochs of `old` steps to epochs of `new` steps."""
    epoch, within = divmod(step, old)
    return epoch * new + min(within, new - 1)


def _set_count(optimizer: Any, step: int) -> Any:
    """Return the optimizer's state with its step count, hence its learning rate, at `step`."""
    count = optax.tree_utils.tree_get(optimizer, "count")
    return optax.tree_utils.tree_set(
        optimizer, count=jax.device_put(np.asarray(step, count.dtype), count.sharding)
    )


def _read_videos(checkpoints: Path) -> tuple[str, ...]:
    try:
        text = (checkpoints / _VIDEOS).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ()
    return tuple(text.split("\n"))


def _write_videos(checkpoints: Path, video_ids: Sequence[str]) -> None:
    checkpoints.mkdir(parents=True, exist_ok=True)
    with atomic.atomic_write(checkpoints / _VIDEOS) as file:
        file.write("\n".join(video_ids).encode("utf-8", "surrogateescape"))


def _new_folder(checkpoints: Path) -> Path:
    return checkpoints.with_name("checkpoints.new")


def _swap(checkpoints: Path, video_ids: Sequence[str]) -> None:
    _write_videos(_new_folder(checkpoints), video_ids)
    os.replace(checkpoints, checkpoints.with_name("checkpoints.old"))
    _finish_swap(checkpoints)


def _finish_swap(checkpoints: Path) -> None:
    """Finish or undo a swap of checkpoints that was interrupted.

    If both the old and the new folder exist, the new one is incomplete and is not used.
    """
    if not checkpoints.exists() and _new_folder(checkpoints).exists():
        os.replace(_new_folder(checkpoints), checkpoints)
    shutil.rmtree(checkpoints.with_name("checkpoints.old"), ignore_errors=True)
