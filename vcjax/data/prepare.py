"""Encodes every video once, smaller, to ArrayRecord shards that training reads fast.

OUT is then a manifest: --config.data.manifest=OUT. Run again, it keeps the shards whose videos and
settings have not changed. JPEG, the default, is decoded several times faster than h264 and takes
several times its space.
"""

import argparse
import math
import os
import shutil
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from vcjax.data import manifest as manifests
from vcjax.data import shards, verify, video
from vcjax.data.manifest import Manifest, ManifestError, Problem
from vcjax.runtime import checksums, filesystem, progress, worker_pool

INDEX = manifests.INDEX
_SAMPLES = 4  # videos encoded to tell the size
_SHARD_BYTES = 2**17  # index and padding of an ArrayRecord file
_SAMPLE_FRAMES = 2 * shards.CHUNK


class Job(NamedTuple):
    """One shard: its videos, and how they are encoded."""

    target: Any  # Path, or remote
    videos: tuple[tuple[str, str], ...]  # id, file
    side: int
    codec: str

    @property
    def video_id(self) -> str:
        """Name of the shard, for messages."""
        return self.target.name

    @property
    def video(self) -> Path:
        """The first file."""
        return filesystem.path_of(self.videos[0][1])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `prepare` takes."""
    parser.add_argument("manifest", help="folder, or table with a path column; also gs:// or s3://")
    parser.add_argument(
        "out", type=filesystem.path_of, help="folder of the shards; also gs:// or s3://"
    )
    parser.add_argument("--side", type=int, default=128, help="short side, pixels")
    parser.add_argument("--codec", choices=shards.CODECS, default="jpeg")
    parser.add_argument("--videos_per_shard", type=int, default=256)
    parser.add_argument("--num_workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--on_missing", choices=("error", "skip"), default="error")


def run(options: argparse.Namespace) -> None:
    """Prepares what the command line names, and says what came of it."""
    read = manifests.read(options.manifest)
    _check_settings(options.side, options.videos_per_shard)
    how: dict[str, Any] = dict(
        side=options.side, codec=options.codec, videos_per_shard=options.videos_per_shard
    )
    expected = expected_bytes(read, **how)
    _check_space(options.out, len(read), expected)
    prepared, problems = prepare(
        read,
        options.out,
        **how,
        num_workers=options.num_workers,
        on_missing=options.on_missing,
    )
    written = sum(filesystem.size_of(path) for path in options.out.glob("*.array_record"))
    print(f"{len(prepared)} videos, {_size(written)}, in {options.out}")
    if problems:
        print(f"{len(problems)} left out, listed in {options.out / 'problems.tsv'}")


def _check_space(out: Any, num_videos: int, expected: int) -> None:
    """Says how large the shards will be. Raises ManifestError where there is not the space."""
    if filesystem.is_remote(out):
        print(f"{num_videos} videos, about {_size(expected)}", flush=True)
        return
    out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out).free
    print(f"{num_videos} videos, about {_size(expected)}; {_size(free)} are free", flush=True)
    if expected > free and not any(out.glob("*.json")):
        raise ManifestError(f"{out}: there is not the space for it")


def prepare(
    manifest: Manifest,
    out: Any,  # Path, or remote
    *,
    side: int,
    codec: str,
    videos_per_shard: int = 256,
    num_workers: int,
    on_missing: str,
) -> tuple[Manifest, list[Problem]]:
    """Encodes `manifest` into `out`; what `manifests.read(out)` gives, and what is left out.

    Videos are encoded with short side `side` (smaller ones keep their size), and shards appear
    whole and read back, or not at all. With `on_missing` "error" a ManifestError lists the bad
    ones once all others are done, and there is no index.
    """
    _check_settings(side, videos_per_shard)
    if not filesystem.is_remote(out):
        out.mkdir(parents=True, exist_ok=True)
    manifests.remove_index(out)
    pairs = list(zip(manifest.video_ids, manifest.paths, strict=True))
    starts = range(0, len(pairs), videos_per_shard)
    jobs = [
        Job(
            out / f"shard-{i:05d}-of-{len(starts):05d}.array_record",
            tuple(pairs[start : start + videos_per_shard]),
            side,
            codec,
        )
        for i, start in enumerate(starts)
    ]
    failed = []
    with progress.bar(desc="prepare", unit="video", total=len(pairs)) as bar:
        for result in worker_pool.run_all(jobs, write_shard, num_workers):
            failed += [result] if result.problem else []
            bar.update(len(result.job.videos))
    if failed:
        raise ManifestError("; ".join(f"{r.job.video_id}: {r.problem}" for r in failed))
    _remove_others(out, jobs)
    records = [_record(job) for job in jobs]
    entries = [entry for record in records for entry in record["videos"]]
    problems = [
        Problem(entry["video_id"], path, entry["problem"])
        for entry, (_, path) in zip(entries, pairs, strict=True)
        if entry["problem"]
    ]
    manifests.save_problems(problems, out / "problems.tsv")
    verify.check_problems(problems, len(pairs), on_missing)
    return manifests.save_index(manifest, entries, out), problems


def expected_bytes(manifest: Manifest, *, side: int, codec: str, videos_per_shard: int) -> int:
    """About how many bytes the shards will have, from the beginnings of a few videos."""
    per_video = []
    for row in np.linspace(0, len(manifest) - 1, min(_SAMPLES, len(manifest))).astype(int):
        path = manifest.paths[row]
        try:
            declared = video.probe(path, decode=False).num_frames
            frames = list(islice(_small_frames(path, side), _SAMPLE_FRAMES))
        except video.DecodeError:
            continue
        if frames:
            size = sum(map(len, shards.encode(frames, codec)))
            per_video.append(size / len(frames) * declared)
    overhead = math.ceil(len(manifest) / videos_per_shard) * _SHARD_BYTES
    return overhead + (round(float(np.mean(per_video)) * len(manifest)) if per_video else 0)


def _check_settings(side: int, videos_per_shard: int) -> None:
    if videos_per_shard < 1 or side < 16:
        raise ManifestError("a shard has at least one video, and a side at least 16 pixels")


def write_shard(job: Job) -> int:
    """Number of videos in the shard, which is complete then."""
    sources = _sources(job)
    record = _record(job)
    stored = filesystem.size_of(job.target)
    if not (record and record["sources"] == sources and record["size"] == stored):
        record = {"sources": sources, **_write(job)}
        filesystem.write_text(job.target.with_suffix(".json"), checksums.as_json(record))
    return sum(not entry["problem"] for entry in record["videos"])


def _write(job: Job) -> dict[str, Any]:
    """Encodes the videos, reads the file back, and puts it into its place."""
    from array_record.python import array_record_module

    job.target.with_suffix(".json").unlink(missing_ok=True)
    checksums: list[int] = []
    entries = []
    with filesystem.writing(job.target) as temporary:
        writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
        for video_id, path in job.videos:
            entry = {"video_id": video_id, "problem": "", "position": len(checksums)}
            try:
                num_frames, fps, records = _encode(path, job)
                entry |= {"num_frames": num_frames, "fps": fps, "shard": job.target.name}
            except video.DecodeError as error:
                entry["problem"], records = str(error).removeprefix(f"{path}: "), []
            entries.append(entry)
            for record in records:
                writer.write(record)
                checksums.append(zlib.crc32(record))
        writer.close()
        _check(temporary, checksums)
        size = temporary.stat().st_size
    return {"size": size, "videos": entries}


def _encode(path: str, job: Job) -> tuple[int, float, list[bytes]]:
    """Frames, rate and records of a video, all of it or DecodeError."""
    declared = video.probe(path, decode=False)
    count = 0

    def counted() -> Iterator[video.Frame]:
        nonlocal count
        for frame in _small_frames(path, job.side):
            count += 1
            yield frame

    records = list(shards.encode(counted(), job.codec))
    video.check_count(path, count, declared.num_frames)
    return count, round(declared.fps, 3), records


def _small_frames(path: str, side: int) -> Iterator[video.Frame]:
    for frame in video.frames(path):
        height, width = frame.shape[:2]
        scale = min(1.0, side / min(height, width))
        # even, as h264 wants it
        size = [max(2, 2 * round(x * scale / 2)) for x in (width, height)]
        yield cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def _check(path: Path, checksums: list[int]) -> None:
    from array_record.python import array_record_module

    reader = array_record_module.ArrayRecordReader(str(path))
    found = reader.num_records()
    same = found == len(checksums) and all(
        zlib.crc32(reader.read([i])[0]) == checksum for i, checksum in enumerate(checksums)
    )
    reader.close()
    if not same:
        raise OSError(f"{path}: does not read back as written; is the disk full?")


def _sources(job: Job) -> list[list[Any]]:
    """What the shard depends on."""
    found: list[list[Any]] = [[job.side, job.codec, shards.CHUNK, shards.JPEG_QUALITY]]
    for video_id, path in job.videos:
        try:
            found.append([video_id, path, *filesystem.stamp(path)])
        except FileNotFoundError:
            found.append([video_id, path, 0, ""])
    return found


def _record(job: Job) -> dict[str, Any]:
    try:
        return checksums.read_json(job.target.with_suffix(".json"))
    except (FileNotFoundError, checksums.DamagedError):
        return {}


def _remove_others(out: Any, jobs: list[Job]) -> None:
    """Shards of an earlier manifest of another length."""
    wanted = {job.target.stem for job in jobs}
    for path in out.glob("shard-*-of-*"):
        if path.name.split(".")[0] not in wanted:
            path.unlink()


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.2f} MB"
