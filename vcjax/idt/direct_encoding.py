"""Fisher vectors of a collection, computed from videos without storing their trajectories."""

import hashlib
import json
import logging
import multiprocessing
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

import fisher
from fisher.vectors import FisherVectors
from vcjax.idt import collection
from vcjax.runtime import atomic, npz, worker_pool

log = logging.getLogger(__name__)


class _Job(NamedTuple):
    idt: collection.Job  # `target` is the file of the vector
    model: Path
    variant: str

    @property
    def video_id(self) -> str:
        return self.idt.video_id

    @property
    def video(self) -> Path:
        return self.idt.video


def extract_vectors(
    videos: Mapping[str, str],
    directory: Path,
    model: Path,
    *,
    variant: str,
    matcher: str,
    people: Path | None,
    num_workers: int,
    on_error: str,
    max_side: int = 0,
) -> FisherVectors:
    """Return the Fisher vectors of every video.

    Each vector is stored in a file of its own, and reused if it was made from the same inputs. A
    video that fails or has no trajectories has no vector.

    Args:
        videos: Video files by id.
        directory: Folder of the vectors' files.
        model: File of a `fisher.Model`.
        variant: Variant of the Fisher vector, "paper" or "released".
        matcher: Point matches for camera motion, a key of `camera.MATCHERS`.
        people: Folder of box files `VIDEO_ID.bb`, or None.
        num_workers: Number of processes.
        on_error: "skip" logs the videos that fail; "error" raises one ValueError that names them,
            after all videos were tried.
        max_side: Larger side in pixels to which larger frames are reduced; 0 keeps all sizes.

    Raises:
        ValueError: If the model cannot be read, or if videos fail and `on_error` is "error".
    """
    num_values = fisher.Model.load(model).num_values
    jobs = [
        _Job(job._replace(target=job.target.with_suffix(".npz")), model, variant)
        for job in collection.jobs(
            videos, directory, matcher=matcher, people=people, max_side=max_side
        )
    ]
    counts, _ = worker_pool.run(
        jobs, _encode_one, desc="idt to fisher", num_workers=num_workers, on_error=on_error
    )
    vectors = np.zeros((len(jobs), num_values), np.float32)
    for row, job in enumerate(jobs):
        if counts[job.video_id]:
            vectors[row] = _read(job.idt.target)[0]
    return FisherVectors(tuple(counts), vectors, np.array([n > 0 for n in counts.values()], bool))


def _encode_one(job: _Job) -> int:
    """Write the vector's file unless it is up to date; return the number of trajectories."""
    source = collection.source_of(job.idt) | {
        "model": hashlib.sha256(job.model.read_bytes()).hexdigest(),
        "variant": job.variant,
    }
    stored_count = _stored_count(job.idt.target, source)
    if stored_count is not None:
        return stored_count
    if multiprocessing.parent_process():
        jax.config.update("jax_platforms", "cpu")  # or every process would reserve GPU memory
    from vcjax.idt import extraction

    num_rows = 0

    def features() -> Iterator[Float[np.ndarray, "_ d"]]:
        nonlocal num_rows
        for rows in extraction.extract_frames(
            job.video,
            people=job.idt.boxes,
            matcher=job.idt.matcher,
            settings=job.idt.settings,
        ):
            num_rows += rows.num_rows
            yield rows.features

    pairs = [(job.video_id, features)]
    _, vectors, _ = _model(job.model).encode_collection(pairs, variant=job.variant)
    _write(job.idt.target, vectors[0], num_rows, source)
    return num_rows


@lru_cache(maxsize=1)  # one model per process, for all its videos
def _model(path: Path) -> fisher.Model:
    return fisher.Model.load(path)


def _write(
    path: Path, vector: Float[np.ndarray, " d"], num_rows: int, source: Mapping[str, Any]
) -> None:
    text = np.frombuffer(json.dumps(source, sort_keys=True).encode(), np.uint8)
    with atomic.atomic_write(path) as file:
        np.savez(file, vector=vector, num_rows=num_rows, source=text, allow_pickle=False)


def _read(path: Path) -> tuple[Float[np.ndarray, " d"], int, dict[str, Any]]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return stored["vector"], int(stored["num_rows"]), json.loads(stored["source"].tobytes())


def _stored_count(target: Path, source: Mapping[str, Any]) -> int | None:
    """Return the number of trajectories of a vector made from `source`, None if there is none."""
    if not target.exists():
        return None
    try:
        _, num_rows, stored = _read(target)
    except npz.UNREADABLE as error:
        log.warning("%s: damaged Fisher vector, encoding its video again: %s", target, error)
        return None
    return num_rows if stored == source else None
