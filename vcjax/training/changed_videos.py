"""What a training stage knows of each video, taken over by `video_id` when videos come or go.

`checkpoints/videos.txt` says which video each row of the bank and each column of the labels is of.
A video that has come gets a random row, drawn by its id, and is a cluster of its own until the
stage clusters again.
"""

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Float, Int

from vcjax.data import splits
from vcjax.runtime import atomic, checkpoint, hosts, sharding

log = logging.getLogger(__name__)

_VIDEOS = "videos.txt"


def continue_with(
    video_ids: Sequence[str],
    stored: dict[str, Any],
    checkpoints: Path,
    *,
    batch_size: int,
    max_share: float,
    seed: int,
) -> None:
    """Makes the newest checkpoint one of `video_ids`, shaped and placed as `stored`.

    It then stands at the same epoch. With more than `max_share` of the videos changed there is no
    checkpoint afterwards.
    """
    hosts.on_first(lambda: _finish_exchange(checkpoints))
    with contextlib.closing(checkpoint.Checkpoints(checkpoints)) as reader:
        step = reader.latest
    if not hosts.on_first(lambda: _has_others(checkpoints, step, video_ids, max_share)):
        return
    assert step is not None
    known = _videos_of(checkpoints)
    new_step = _same_place(step, *(len(ids) // batch_size for ids in (known, video_ids)))
    taken = restore(checkpoints, stored, video_ids, seed=seed)
    taken["optimizer"] = _with_count(taken["optimizer"], new_step)
    new = _exchanged(checkpoints)
    hosts.on_first(lambda: shutil.rmtree(new, ignore_errors=True))
    with contextlib.closing(checkpoint.Checkpoints(new)) as writer:
        writer.save(new_step, taken)
    hosts.on_first(lambda: _exchange(checkpoints, video_ids))
    gone, come = len(set(known) - set(video_ids)), len(set(video_ids) - set(known))
    log.info("%d videos less and %d more: what is known of the others stays", gone, come)


def _has_others(
    checkpoints: Path,
    step: int | None,
    video_ids: Sequence[str],
    max_share: float,
) -> bool:
    """Whether its checkpoint is to be changed; where there is none, `video_ids` are noted."""
    known = _videos_of(checkpoints)
    if step is not None and known:
        if known == tuple(video_ids):
            return False
        if splits.few_changes(known, video_ids, max_share=max_share):
            return True
        log.info("more than data.max_changed_share of the videos changed: the stage begins anew")
        shutil.rmtree(checkpoints)
    _write_videos(checkpoints, video_ids)
    return False


def restore(
    checkpoints: Path, template: dict[str, Any], video_ids: Sequence[str], *, seed: int
) -> dict[str, Any]:
    """Those entries of the newest state that `template` has, bank and labels for `video_ids`.

    Raises FileNotFoundError where there is no checkpoint.
    """
    known = _videos_of(checkpoints)
    if not known or known == tuple(video_ids):
        return checkpoint.restore_part(checkpoints, template)
    shapes = checkpoint.shapes(checkpoints)
    by_row = {k: template[k] for k in ("bank", "labels") if k in template}
    whole = sharding.replicated(
        sharding.make()
    )  # of other rows, which may not divide among the devices
    stored = {
        k: jax.ShapeDtypeStruct(shapes[k], v.dtype, sharding=whole) for k, v in by_row.items()
    }
    found = checkpoint.restore_part(checkpoints, template | stored)
    place = {video_id: row for row, video_id in enumerate(known)}
    rows = np.array([place.get(video_id, -1) for video_id in video_ids])
    here = {k: np.asarray(found[k].addressable_data(0)) for k in by_row}
    taken = {"bank": _bank(here["bank"], rows, video_ids, seed=seed)}
    if "labels" in here:
        taken["labels"] = _labels(here["labels"][:, : len(known)], rows)
    return found | {k: _placed(taken[k], like) for k, like in by_row.items()}


def _bank(
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


def _labels(
    labels: Int[np.ndarray, "runs m"], rows: Int[np.ndarray, " n"]
) -> Int[np.ndarray, "runs n"]:
    taken = labels[:, rows]
    new = np.flatnonzero(rows < 0)
    taken[:, new] = labels.max(axis=1, keepdims=True) + 1 + np.arange(len(new), dtype=labels.dtype)
    return taken


def _placed(values: np.ndarray, like: jax.Array) -> jax.Array:
    """`values`, filled up with zeros to the shape of `like`, on its devices."""
    filled = np.zeros(like.shape, like.dtype)
    filled[tuple(slice(size) for size in values.shape)] = values
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: filled[index])


def _same_place(step: int, old: int, new: int) -> int:
    """The step, of epochs of `new` steps, at the place of `step` of epochs of `old`."""
    epoch, within = divmod(step, old)
    return epoch * new + min(within, new - 1)


def _with_count(optimizer: Any, step: int) -> Any:
    """The optimizer's state with its learning rate as after `step` steps."""
    count = optax.tree_utils.tree_get(optimizer, "count")
    return optax.tree_utils.tree_set(
        optimizer, count=jax.device_put(np.asarray(step, count.dtype), count.sharding)
    )


def _videos_of(checkpoints: Path) -> tuple[str, ...]:
    try:
        text = (checkpoints / _VIDEOS).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ()
    return tuple(text.split("\n"))


def _write_videos(checkpoints: Path, video_ids: Sequence[str]) -> None:
    checkpoints.mkdir(parents=True, exist_ok=True)
    with atomic.replacing(checkpoints / _VIDEOS) as file:
        file.write("\n".join(video_ids).encode("utf-8", "surrogateescape"))


def _exchanged(checkpoints: Path) -> Path:
    return checkpoints.with_name("checkpoints.new")


def _exchange(checkpoints: Path, video_ids: Sequence[str]) -> None:
    _write_videos(_exchanged(checkpoints), video_ids)
    os.replace(checkpoints, checkpoints.with_name("checkpoints.old"))
    _finish_exchange(checkpoints)


def _finish_exchange(checkpoints: Path) -> None:
    """What a killed process may have left to do; a new folder beside the old one is not whole."""
    if not checkpoints.exists() and _exchanged(checkpoints).exists():
        os.replace(_exchanged(checkpoints), checkpoints)
    shutil.rmtree(checkpoints.with_name("checkpoints.old"), ignore_errors=True)
