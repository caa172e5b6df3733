"""Encode every video once, at reduced size, into ArrayRecord shards that training reads fast.

Train on the result by --config.data.manifest=OUT. If the command runs again, shards whose videos
and settings have not changed are kept. JPEG, the default, is decoded several times faster than h264
and takes several times the space.
"""

import argparse
import math
import os
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vcjax.data import manifest as manifests
from vcjax.data import shards, verify, video
from vcjax.data.manifest import Manifest, ManifestError, Problem
from vcjax.runtime import checksums, filesystem, progress, worker_pool

INDEX = manifests.INDEX
_SAMPLES = 4  # videos encoded to estimate the size
_SHARD_BYTES = 2**17  # index and padding of an ArrayRecord file
_SAMPLE_FRAMES = 2 * shards.CHUNK  # frames encoded of each sample


class Job(NamedTuple):
    """A shard to write: its videos and the settings of the encoding."""

    target: Any  # Path or UPath
    videos: tuple[tuple[str, str], ...]  # video_id and path
    side: int  # short side in pixels
    codec: str  # jpeg or h264

    @property
    def video_id(self) -> str:
        """Name of the shard, for error messages."""
        return self.target.name

    @property
    def video(self) -> Path:
        """File of the first video, whose size orders the jobs."""
        return filesystem.path_of(self.videos[0][1])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prepare`."""
    parser.add_argument("manifest", help="folder, or table with a path column; also gs:// or s3://")
    parser.add_argument(
        "out", type=filesystem.path_of, help="folder to write the shards to; also gs:// or s3://"
    )
    parser.add_argument("--side", type=int, default=128, help="short side in pixels")
    parser.add_argument("--codec", choices=shards.CODECS, default="jpeg")
    parser.add_argument("--videos_per_shard", type=int, default=256)
    parser.add_argument(
        "--num_workers", type=int, default=os.cpu_count() or 1, help="encoding processes"
    )
    parser.add_argument("--on_error", choices=("error", "skip"), default="error")


def run(options: argparse.Namespace) -> None:
    """Estimate the size, write the shards, and print their size and the number of bad videos."""
    read = manifests.read(options.manifest)
    _check_settings(options.side, options.videos_per_shard)
    settings: dict[str, Any] = dict(
        side=options.side, codec=options.codec, videos_per_shard=options.videos_per_shard
    )
    expected = expected_bytes(read, **settings)
    _check_space(options.out, len(read), expected)
    prepared, problems = prepare(
        read,
        options.out,
        **settings,
        num_workers=options.num_workers,
        on_error=options.on_error,
    )
    written = sum(filesystem.size_of(path) for path in options.out.glob("*.array_record"))
    print(f"{len(prepared)} videos, {_size(written)}, in {options.out}")
    if problems:
        print(f"{len(problems)} videos left out, listed in {options.out / 'problems.tsv'}")


def _check_space(out: Any, num_videos: int, expected: int) -> None:
    """Print the expected size of the shards.

    Raises:
      ManifestError: if a local disk has less space. Not raised if there are shards already, since
        these may be kept.
    """
    if filesystem.is_remote(out):
        print(f"{num_videos} videos, about {_size(expected)}", flush=True)
        return
    out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out).free
    print(f"{num_videos} videos, about {_size(expected)}; {_size(free)} are free", flush=True)
    if expected > free and not any(out.glob("*.json")):
        raise ManifestError(
            f"{out}: the shards need about {_size(expected)}, but {_size(free)} are free; "
            "free some space, choose another folder, or reduce --side"
        )


def prepare(
    manifest: Manifest,
    out: Any,  # Path or UPath
    *,
    side: int,
    codec: str,
    videos_per_shard: int = 256,
    num_workers: int,
    on_error: str,
) -> tuple[Manifest, list[Problem]]:
    """Encode the videos of `manifest` into shards in `out`, and write the index of the folder.

    A shard appears only when it is complete and has been verified by reading it back.

    Args:
      manifest: the videos.
      out: local or remote folder of the shards.
      side: short side in pixels; smaller videos keep their size.
      codec: jpeg or h264.
      videos_per_shard: maximum number of videos in a shard.
      num_workers: encoding processes.
      on_error: "skip" leaves out videos that cannot be decoded; "error" raises an error for them.

    Returns:
      The manifest that `manifests.read(out)` returns, and the videos that are left out.

    Raises:
      ManifestError: if a shard cannot be written, no video can be decoded, or any video cannot with
        `on_error` "error". Missing and empty files raise the error before any shard is written,
        damaged ones after all shards are, without an index.
    """
    _check_settings(side, videos_per_shard)
    if on_error == "error":
        verify.check_files(manifest)
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
    failed = []  # jobs whose shard could not be written
    with progress.bar(desc="prepare", unit="video", total=len(pairs)) as bar:
        for result in worker_pool.run_all(jobs, write_shard, num_workers):
            failed += [result] if result.problem else []
            bar.update(len(result.job.videos))
    if failed:
        raise ManifestError("; ".join(f"{r.job.video_id}: {r.problem}" for r in failed))
    _remove_stale_shards(out, jobs)
    records = [_record(job) for job in jobs]
    entries = [entry for record in records for entry in record["videos"]]
    problems = [
        Problem(entry["video_id"], path, entry["problem"])
        for entry, (_, path) in zip(entries, pairs, strict=True)
        if entry["problem"]
    ]
    manifests.save_problems(problems, out / "problems.tsv")
    verify.check_problems(problems, len(pairs), on_error)
    return manifests.save_index(manifest, entries, out), problems


def expected_bytes(manifest: Manifest, *, side: int, codec: str, videos_per_shard: int) -> int:
    """Return the approximate size of the shards in bytes, extrapolated from a few videos."""
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
        raise ManifestError(
            f"videos_per_shard is {videos_per_shard} and side is {side}; "
            "use at least 1 video per shard and 16 pixels"
        )


def write_shard(job: Job) -> int:
    """Write the shard unless it is complete and current; return its number of videos."""
    sources = _sources(job)
    record = _record(job)
    stored = filesystem.size_of(job.target)
    if not (record and record["sources"] == sources and record["size"] == stored):
        record = {"sources": sources, **_write(job)}
        filesystem.write_text(job.target.with_suffix(".json"), checksums.as_json(record))
    return sum(not entry["problem"] for entry in record["videos"])


def _write(job: Job) -> dict[str, Any]:
    """Encode the videos into a temporary file, verify it, and move or upload it to its target."""
    job.target.with_suffix(".json").unlink(missing_ok=True)
    entries, position = [], 0
    with filesystem.writing(job.target) as temporary:
        with shards.Writer(temporary) as writer:
            for video_id, path in job.videos:
                entry = {"video_id": video_id, "problem": "", "position": position}
                try:
                    num_frames, fps, records = _encode(path, job)
                    entry |= {"num_frames": num_frames, "fps": fps, "shard": job.target.name}
                except video.DecodeError as error:
                    entry["problem"], records = str(error).removeprefix(f"{path}: "), []
                entries.append(entry)
                position += len(records)
                for record in records:
                    writer.write(record)
        size = temporary.stat().st_size
    return {"size": size, "videos": entries}


def _encode(path: str, job: Job) -> tuple[int, float, list[bytes]]:
    """Return the number of frames, the frame rate and the records of a video.

    Raises:
      DecodeError: if the video is damaged or truncated.
    """
    fps = video.probe(path, decode=False).fps
    count = 0

    def counted() -> Iterator[video.Frame]:
        nonlocal count
        for frame in _small_frames(path, job.side):
            count += 1
            yield frame

    records = list(shards.encode(counted(), job.codec))
    return count, round(fps, 3), records


def _small_frames(path: str, side: int) -> Iterator[video.Frame]:
    return (shards.reduce(frame, side) for frame in video.frames(path))


def _sources(job: Job) -> list[list[Any]]:
    """Return the settings and the versions of the videos; a change writes the shard again."""
    sources: list[list[Any]] = [[job.side, job.codec, shards.CHUNK, shards.JPEG_QUALITY]]
    for video_id, path in job.videos:
        try:
            sources.append([video_id, path, *filesystem.file_version(path)])
        except FileNotFoundError:
            sources.append([video_id, path, 0, ""])
    return sources


def _record(job: Job) -> dict[str, Any]:
    """Return the saved description of a shard, or an empty one if it is missing or damaged."""
    try:
        return checksums.read_json(job.target.with_suffix(".json"))
    except (FileNotFoundError, checksums.DamagedError):
        return {}


def _remove_stale_shards(out: Any, jobs: list[Job]) -> None:
    """Remove shards of an earlier manifest with another number of shards."""
    current = {job.target.stem for job in jobs}
    for path in out.glob("shard-*-of-*"):
        if path.name.split(".")[0] not in current:
            path.unlink()


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.2f} MB"
