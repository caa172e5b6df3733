"""Rehearse a run at the size of Kinetics: time, memory and disk space of every stage.

    python -m vcjax.bench rehearsal --num_videos=2350,23500,235000

For each number of videos, a collection of stand-ins is written: labels, frames of a few kilobytes
per video, and random Fisher vectors of the paper's 2000 values. The pipeline then runs on it with
the paper's K and m, a tiny network and a few training steps per stage. K is in proportion to the
number of videos, 6000 for 235,000. Every stage runs in a process of its own; processes that a stage
starts are measured apart.
"""

import argparse
import contextlib
import dataclasses
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from ml_collections import ConfigDict

import fisher
from vcjax import settings
from vcjax.data import shards
from vcjax.data.manifest import Manifest
from vcjax.ingest.collection import Collection, PartVectors, Pictures
from vcjax.pipeline import build
from vcjax.pipeline import workdir as workdirs
from vcjax.runtime import compilation, stage_cache, xla_flags

COLUMNS = ("videos", "stage", "seconds", "CPU seconds", "memory, MB", "of workers, MB", "disk, MB")
STAGES = ("manifest", "ingest", "fisher", "ir", "la", "tune", "evaluate")
_PAPER_VIDEOS, _PAPER_CLUSTERS = 235_000, 6000
_NUM_CLASSES = 40
_NUM_FRAMES, _SIDE, _WIDTH = 4, 16, 4  # frames and pixels of a clip, channels of the network
_NUM_PICTURES = 64  # different stand-ins for the frames of a video
_NUM_STEPS = 8  # per training stage


class Row(NamedTuple):
    """Cost of a stage; the fields correspond to COLUMNS."""

    num_videos: int
    stage: str
    seconds: float
    cpu_seconds: float  # of the process of the stage and of its child processes
    memory: float  # peak resident memory of the process of the stage, bytes
    workers: float  # peak resident memory of the largest of its child processes, bytes
    disk: float  # growth of the files of collection and run, bytes


def main(arguments: Sequence[str]) -> None:
    """Rehearse a run for each number of videos; print a row of a Markdown table per stage."""
    parser = argparse.ArgumentParser(
        prog="python -m vcjax.bench rehearsal",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--num_videos", default="2350", help="numbers of videos, e.g. 2350,23500")
    parser.add_argument("--num_clusters", type=int, default=_PAPER_CLUSTERS, help="K of 235,000")
    parser.add_argument("--folder", help="parent of the temporary folder; 235,000 videos take 6 GB")
    options = parser.parse_args(arguments)
    print("", *COLUMNS, "", sep=" | ")
    print("|---" * len(COLUMNS) + "|", flush=True)
    for num_videos in map(int, options.num_videos.split(",")):
        with tempfile.TemporaryDirectory(prefix="rehearsal-", dir=options.folder) as folder:
            for row in rehearse(num_videos, options.num_clusters, Path(folder)):
                sizes = (f"{size / 1e6:,.0f}" for size in (row.memory, row.workers, row.disk))
                times = f"{row.seconds:.0f}", f"{row.cpu_seconds:.0f}"
                cells = (f"{row.num_videos:,}", row.stage, *times, *sizes)
                print("", *cells, "", sep=" | ", flush=True)


def rehearse(num_videos: int, num_clusters: int, folder: Path) -> Iterator[Row]:
    """Yield the cost of the collection, of its check, and of every stage of a run in `folder`.

    `num_clusters` is K of 235,000 videos, from which K of `num_videos` follows.
    """
    config = config_for(num_videos, num_clusters, folder)
    calls: list[tuple[str, Callable[..., None], tuple[Any, ...]]] = [
        ("collection", write_collection, (num_videos, config, folder)),
        ("check", _check, (config, folder)),
        *((name, _run, (config, folder, name)) for name in STAGES),
    ]
    size = 0
    for name, function, arguments in calls:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            cost = pool.submit(_measured, function, *arguments).result()
        before, size = size, _size(folder)
        yield Row(num_videos, name, *cost, size - before)


def config_for(num_videos: int, num_clusters: int, folder: Path) -> ConfigDict:
    """Return the settings of the rehearsal of a run with the collection in `folder`."""
    config = settings.paper()
    config.stages = STAGES
    config.data.collection = str(folder / "collection")
    config.data.holdout = 0.05
    config.clip.num_frames, config.clip.side = _NUM_FRAMES, _SIDE
    config.model.width = _WIDTH
    config.idt.detector = "none"
    config.clusters.num_clusters = max(2, round(num_videos * num_clusters / _PAPER_VIDEOS))
    config.clusters.num_iterations = 1
    config.ir.num_negatives = min(config.ir.num_negatives, num_videos // 2)
    for name in ("ir", "la", "tune"):
        config[name].epochs = 1
        config[name].batch_size = max(8, min(256, num_videos // 64 * 8))
    config.la.num_background = config.tune.num_background = 0  # in proportion to the videos
    config.evaluation.clips_per_video = 1
    config.evaluation.batch_size = config.ir.batch_size
    return config


def write_collection(num_videos: int, config: ConfigDict, folder: Path) -> None:
    """Write a collection of stand-ins to `folder`/collection."""
    generator = np.random.default_rng(0)
    pictures = Pictures(2 * _SIDE, config.data.codec)
    root = folder / "collection"
    collection = Collection.create(root, pictures, num_videos)
    variant = workdirs.variant(config)
    videos = _videos(num_videos, folder)
    few = generator.normal(size=(64, 8))
    model = fisher.Model.fit(
        few,
        explained_variance=0.9,
        num_components=1,
        sketch_dim=config.fisher.sketch_dim,
        seed=config.seed,
    )
    collection.write_model(variant, model, videos.video_ids)
    records = _records(generator)
    motions = generator.normal(size=(_NUM_CLASSES, config.fisher.sketch_dim)).astype(np.float32)
    (root / "parts").mkdir()
    members: list[list[int]] = [[] for _ in range(collection.num_parts)]
    for row, video_id in enumerate(videos.video_ids):
        members[collection.part_of(video_id)].append(row)
    entries: dict[str, dict[str, Any]] = {}
    for part, rows in enumerate(members):
        shard = f"{part:05d}-standin.array_record"
        record: dict[str, Any] = {"pictures": list(pictures), "shard": shard}
        with shards.Writer(collection.shard(record)) as writer:
            for row in rows:
                writer.write(records[row % _NUM_PICTURES])
        record["size"] = collection.shard(record).stat().st_size
        record["videos"] = [
            {"video_id": videos.video_ids[row], "version": "1", "problem": "", "fps": 25.0}
            | {"num_frames": _NUM_FRAMES, "position": i, "shard": f"parts/{shard}"}
            for i, row in enumerate(rows)
        ]
        collection.write_record(part, record)
        entries |= {entry["video_id"]: entry for entry in record["videos"]}
        noise = generator.normal(size=(len(rows), motions.shape[1])).astype(np.float32)
        vectors = motions[np.array(rows, int) % _NUM_CLASSES] + 2 * noise
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        ids = tuple(videos.video_ids[row] for row in rows)
        stored = PartVectors(ids, ("1",) * len(rows), vectors, np.full(len(rows), 100))
        collection.write_vectors(variant, part, stored)
    collection.write_index(videos, (entries[video_id] for video_id in videos.video_ids))


def _videos(num_videos: int, folder: Path) -> Manifest:
    num_classes = min(_NUM_CLASSES, num_videos // 10)
    ids = tuple(f"video_{row:06d}" for row in range(num_videos))
    return Manifest(
        ids,
        tuple(str(folder / "videos" / f"{video_id}.mp4") for video_id in ids),
        {"class": tuple(f"class_{row % num_classes:03d}" for row in range(num_videos))},
        ("",) * num_videos,
        (_NUM_FRAMES,) * num_videos,
    )


def _records(generator: np.random.Generator) -> list[bytes]:
    """Return encoded frames of stand-ins, one record each."""
    size = (_NUM_PICTURES, _NUM_FRAMES, 2 * _SIDE, 2 * _SIDE, 3)
    frames = generator.integers(0, 256, size, dtype=np.uint8)
    return [record for video in frames for record in shards.encode(video, "jpeg")]


def _check(config: ConfigDict, folder: Path) -> None:
    """Check all files of the collection, as a run does with a collection of its own."""
    collection = workdirs.collection(config, folder / "run")
    assert not list(collection.damaged([workdirs.variant(config)]))


def _run(config: ConfigDict, folder: Path, name: str) -> None:
    """Run a stage of the pipeline, with a few steps per epoch of training."""
    workdir, resolve = folder / "run", settings.resolve

    def few_steps(*arguments: Any, **options: Any) -> settings.Sizes:
        sizes = resolve(*arguments, **options)
        num_steps = min(sizes.steps_per_epoch, _NUM_STEPS)
        return dataclasses.replace(sizes, steps_per_epoch=num_steps)

    xla_flags.set_defaults()
    with mock.patch.object(settings, "resolve", few_steps):
        stages = build.build(config, workdir)
        workdir.mkdir(exist_ok=True)
        compilation.report()
        compilation.cache_in(workdir / "compiled")
        stage_cache.run(stages, workdir, only=[name])


def _measured(function: Callable[..., None], *arguments: Any) -> tuple[float, float, float, float]:
    """Return the time of a call, of CPUs too, and the peak memory of this process and children."""
    begin = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        function(*arguments)
    seconds = time.perf_counter() - begin
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    usage = [resource.getrusage(processes) for processes in who]
    cpu_seconds = sum(used.ru_utime + used.ru_stime for used in usage)
    memory, workers = (unit * used.ru_maxrss for used in usage)
    return seconds, cpu_seconds, memory, workers


def _size(folder: Path) -> int:
    """Return the bytes of all files in `folder`."""
    files = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    return sum(file.stat().st_size for file in files)
