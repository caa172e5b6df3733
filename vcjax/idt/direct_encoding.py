"""Straight from videos to Fisher vectors: their descriptors never touch a disk."""

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
    idt: collection.Job  # its target is the vector's file
    model: Path
    reading: str

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
    reading: str,
    matcher: str,
    people: Path | None,
    num_workers: int,
    on_error: str,
) -> FisherVectors:
    """The vectors of `videos`, files by id, by the `fisher.Model` in the file `model`.

    Each is kept in a small file in `directory`, and taken from there if that was made from the
    same. A video without trajectories has none, nor one that fails: "skip" logs these, "error"
    raises one ValueError that names them, once the others are done.
    """
    num_values = fisher.Model.load(model).num_values
    jobs = [
        _Job(job, model, reading)
        for job in collection.jobs(videos, directory, matcher=matcher, people=people)
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
    """Number of trajectories of the video, whose vector is in its file then."""
    source = collection.source_of(job.idt) | {
        "model": hashlib.sha256(job.model.read_bytes()).hexdigest(),
        "reading": job.reading,
    }
    found = _stored_count(job.idt.target, source)
    if found is not None:
        return found
    if multiprocessing.parent_process():
        jax.config.update("jax_platforms", "cpu")  # or every process takes memory of the GPU
    from vcjax.idt import extraction

    num_rows = 0

    def features() -> Iterator[Float[np.ndarray, "_ d"]]:
        nonlocal num_rows
        for rows in extraction.extract_frames(
            job.video, people=job.idt.boxes, matcher=job.idt.matcher
        ):
            num_rows += rows.num_rows
            yield rows.features

    pairs = [(job.video_id, features)]
    _, vectors, _ = _model(job.model).encode_collection(pairs, reading=job.reading)
    _write(job.idt.target, vectors[0], num_rows, source)
    return num_rows


@lru_cache(maxsize=1)  # one for all videos of a process
def _model(path: Path) -> fisher.Model:
    return fisher.Model.load(path)


def _write(
    path: Path, vector: Float[np.ndarray, " d"], num_rows: int, source: Mapping[str, Any]
) -> None:
    text = np.frombuffer(json.dumps(source, sort_keys=True).encode(), np.uint8)
    with atomic.replacing(path) as file:
        np.savez(file, vector=vector, num_rows=num_rows, source=text, allow_pickle=False)


def _read(path: Path) -> tuple[Float[np.ndarray, " d"], int, dict[str, Any]]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return stored["vector"], int(stored["num_rows"]), json.loads(stored["source"].tobytes())


def _stored_count(target: Path, source: Mapping[str, Any]) -> int | None:
    """Number of trajectories behind the vector that is there from that source, else None."""
    if not target.exists():
        return None
    try:
        _, num_rows, stored = _read(target)
    except npz.UNREADABLE as error:
        log.warning("%s: damaged, made again: %s", target, error)
        return None
    return num_rows if stored == source else None
