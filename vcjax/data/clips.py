"""Batches of clips from videos, loaded by grain (Sec. 4.2).

Batches do not depend on the number of workers, and reading may resume at any step.
"""

import contextlib
import ctypes
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import cv2
import grain
import jax
import numpy as np
from absl import flags
from jaxtyping import Int, UInt8

from vcjax.data import video
from vcjax.data.manifest import Manifest, ManifestError
from vcjax.data.read_marks import Marks
from vcjax.runtime import checks, preemption

log = logging.getLogger(__name__)

Batch = dict[str, np.ndarray]
_Sample = dict[str, np.ndarray | np.generic]


# Frames that shrink by at most this factor are interpolated linearly. Area interpolation costs five
# times as much and differs by less than one gray level (of 255) on average.
_MAX_LINEAR_SHRINK = 1.25
_MAX_THREADS = 8  # each holds two batches in memory, of 154 MB at 256 clips
_SHOWN = 10  # videos in a message
_REPLACEMENTS = 20  # videos tried in place of one that cannot be decoded, before an error


class _Video(NamedTuple):
    row: int  # of the manifest
    path: str
    num_frames: int
    clip: int = 0  # position among the clips of the video


@checks.arguments
def training_clips(
    manifest: Manifest,
    *,
    num_frames: int,
    stride: int = 1,
    side: int,
    scales: Sequence[float],
    batch_size: int,
    num_epochs: int,
    seed: int,
    excluded: frozenset[int] = frozenset(),
    marks: Marks | None = None,
) -> grain.MapDataset:
    """Return training batches of randomly cropped clips, one batch per step.

    A clip begins at a uniformly random frame from which a whole clip fits; a video shorter than a
    clip is repeated. A crop is a square at a uniformly random position; its side is the short side
    of the video times a random element of `scales` (Hara et al. 2018). Each epoch has its own order
    and drops the last, incomplete batch. A video that cannot be decoded or is excluded is replaced
    by a random video, the same in every run.

    Args:
      manifest: the videos, with their numbers of frames.
      num_frames: frames per clip.
      stride: frames of the video from one frame of the clip to the next.
      side: height and width of the clips in pixels, to which crops are resized.
      scales: sides of the crop, relative to the short side of the video.
      batch_size: clips per batch.
      num_epochs: repetitions of the videos.
      seed: seed of the order and of all random choices.
      excluded: rows of videos that must not be read.
      marks: record of the videos being read, if needed.

    Returns:
      Data set of batches; `dataset[step:]` resumes at a step. A batch is a dict of arrays: `clip`,
      uint8 [b, num_frames, side, side, 3], RGB in [0, 255]; `index`, int32 [b], row of the video;
      `bad`, int32 [b], row of the video that was replaced, or -1; `key`, uint32 [b], seed of the
      augmentation on the device.
    """
    _check_counts(num_frames=num_frames, stride=stride, side=side, batch_size=batch_size)
    listed = _videos(manifest)
    cut = _TrainingCut(num_frames, stride, side, tuple(scales), listed, excluded, marks)
    videos = grain.MapDataset.source(listed).seed(seed).shuffle()
    batches = videos.random_map(cut).batch(batch_size, drop_remainder=True)
    return batches.repeat(num_epochs)


@checks.arguments
def evaluation_clips(
    manifest: Manifest,
    *,
    num_frames: int,
    stride: int = 1,
    side: int,
    clips_per_video: int,
    seed: int,
    batch_size: int,
    skip_bad: bool = False,
) -> grain.MapDataset:
    """Return batches of center crops of random clips for evaluation, in the order of the videos.

    The clips of a video follow each other. Their starts are drawn by `clip_starts`. The short side
    of the video is resized to `side` pixels.

    Args:
      manifest: the videos, with their numbers of frames.
      num_frames: frames per clip.
      stride: frames of the video from one frame of the clip to the next.
      side: height and width of the clips in pixels.
      clips_per_video: clips of each video; the paper averages over 5 (Sec. 4.2).
      seed: seed of the starts of the clips.
      batch_size: clips per batch.
      skip_bad: replace a clip that cannot be decoded by a black one of index -1; otherwise reading
        it raises DecodeError.

    Returns:
      Data set of batches as in `training_clips` without `bad`; `key` is 0. The last batch is padded
      with clips of index -1.
    """
    _check_counts(num_frames=num_frames, stride=stride, side=side, batch_size=batch_size)
    checks.count("clips_per_video", clips_per_video)
    videos = [
        video._replace(clip=clip) for video in _videos(manifest) for clip in range(clips_per_video)
    ]
    videos += [videos[-1]._replace(row=-1)] * (-len(videos) % batch_size)
    cut = _EvaluationCut(num_frames, stride, side, clips_per_video, seed, skip_bad)
    return grain.MapDataset.source(videos).map(cut).batch(batch_size, drop_remainder=True)


def default_threads(num_workers: int = 0) -> int:
    """Return the number of reading threads that suits the platform.

    Two threads leave the cores of a CPU to the network. With an accelerator the workers divide the
    cores among themselves.
    """
    if jax.default_backend() == "cpu":
        return 2
    return max(1, min(_MAX_THREADS, (os.cpu_count() or 1) // max(1, num_workers)))


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        checks.count(name, value)


def iterate(
    dataset: grain.MapDataset, *, num_workers: int, num_threads: int
) -> grain.DatasetIterator[Batch]:
    """Return an iterator over the batches in order, which threads or processes read ahead.

    With `num_workers` 0, `num_threads` threads of this process read; otherwise each of the worker
    processes does so with its own threads. 0 threads stand for `default_threads`.
    """
    num_threads = num_threads or default_threads(num_workers)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
    batches = dataset.to_iter_dataset(options)
    if num_workers:
        if not flags.FLAGS.is_parsed():  # grain reads absl flags, which only an absl app parses
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=num_workers), preemption.in_worker()
        )
    return iter(batches)


def limit_bad_videos(
    batches: Iterable[Batch], manifest: Manifest, *, max_corrupt_fraction: float
) -> Iterator[Batch]:
    """Yield training batches without `bad`, and log the replaced videos at the end.

    Raises:
      ManifestError: if more than `max_corrupt_fraction` of the videos had to be replaced. The
        message lists the first ten of them.
    """
    bad: set[int] = set()
    try:
        for batch in batches:
            bad.update(row for row in batch.pop("bad").tolist() if row >= 0)
            if len(bad) > max_corrupt_fraction * len(manifest):
                raise ManifestError(
                    f"more than data.max_corrupt_fraction={max_corrupt_fraction:g} of the videos "
                    "cannot be decoded; repair or remove them, or raise it:"
                    f"{_list_videos(bad, manifest)}"
                )
            yield batch
    finally:
        if bad:
            log.warning(
                "%d videos were replaced by others because they cannot be decoded:%s",
                len(bad),
                _list_videos(bad, manifest),
            )


def _list_videos(rows: Iterable[int], manifest: Manifest) -> str:
    rows = sorted(rows)
    names = [f"\n  {manifest.video_ids[row]}: {manifest.paths[row]}" for row in rows[:_SHOWN]]
    more = len(rows) - _SHOWN
    return "".join(names) + (f"\n  and {more:,} more" if more > 0 else "")


def _videos(manifest: Manifest) -> list[_Video]:
    return list(map(_Video, range(len(manifest)), manifest.paths, manifest.num_frames))


class _TrainingCut(NamedTuple):
    num_frames: int
    stride: int
    side: int
    scales: tuple[float, ...]
    videos: list[_Video]  # candidates to replace a video that cannot be decoded
    excluded: frozenset[int]  # rows that must not be read
    marks: Marks | None

    def __call__(self, source: _Video, generator: np.random.Generator) -> _Sample:
        try:
            return self._cut(source, generator) | {"bad": np.int32(-1)}
        except video.DecodeError:
            for row in generator.integers(len(self.videos), size=_REPLACEMENTS):
                with contextlib.suppress(video.DecodeError):
                    sample = self._cut(self.videos[row], generator)
                    return sample | {"bad": np.int32(source.row)}
            raise

    def _cut(self, source: _Video, generator: np.random.Generator) -> _Sample:
        start = generator.integers(_last_start(source, self.num_frames, self.stride) + 1)
        if source.row in self.excluded:
            raise video.DecodeError(f"{source.path}: excluded")
        with self.marks.reading(source.row) if self.marks else contextlib.nullcontext():
            frames = video.clip(source.path, int(start), self.num_frames, stride=self.stride)
        height, width = frames.shape[1:3]
        crop = max(1, round(min(height, width) * self.scales[generator.integers(len(self.scales))]))
        top, left = generator.integers(height - crop + 1), generator.integers(width - crop + 1)
        return {
            "clip": _resize(frames[:, top : top + crop, left : left + crop], self.side, self.side),
            "index": np.int32(source.row),
            "key": np.uint32(generator.integers(2**32)),
        }


class _EvaluationCut(NamedTuple):
    num_frames: int
    stride: int
    side: int
    clips_per_video: int
    seed: int
    skip_bad: bool

    def __call__(self, source: _Video) -> _Sample:
        try:
            return self._cut(source)
        except video.DecodeError as error:
            if not self.skip_bad:
                raise
            log.warning("video skipped: %s", error)
            black = np.zeros((self.num_frames, self.side, self.side, 3), np.uint8)
            return {"clip": black, "index": np.int32(-1), "key": np.uint32(0)}

    def _cut(self, source: _Video) -> _Sample:
        last = _last_start(source, self.num_frames, self.stride)
        starts = clip_starts(last, self.clips_per_video, seed=self.seed)
        frames = video.clip(
            source.path, int(starts[source.clip]), self.num_frames, stride=self.stride
        )
        return {
            "clip": center_crop(frames, self.side),
            "index": np.int32(source.row),
            "key": np.uint32(0),
        }


def center_crop(
    frames: UInt8[np.ndarray, "t h w 3"], side: int
) -> UInt8[np.ndarray, "t side side 3"]:
    """Return the centers of the frames, whose short side is resized to `side` pixels."""
    height, width = frames.shape[1:3]
    scale = side / min(height, width)
    height, width = max(side, round(height * scale)), max(side, round(width * scale))
    frames = _resize(frames, height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return frames[:, top : top + side, left : left + side]


@checks.arguments
def clip_starts(last: int, clips_per_video: int, *, seed: int) -> Int[np.ndarray, " clips"]:
    """Return the first frames of random clips, sorted, drawn uniformly from 0 to `last`.

    They depend on `seed` and `last` alone. A single clip begins at `last // 2`.
    """
    if clips_per_video == 1:
        return np.array([last // 2])
    generator = np.random.default_rng([seed, last])
    return np.sort(generator.integers(last + 1, size=clips_per_video))


def _last_start(source: _Video, num_frames: int, stride: int) -> int:
    """Return the last frame from which a whole clip fits, or 0 if the video is too short."""
    return max(0, source.num_frames - ((num_frames - 1) * stride + 1))


def _resize(
    frames: UInt8[np.ndarray, "t h w 3"], height: int, width: int
) -> UInt8[np.ndarray, "t h2 w2 3"]:
    method = cv2.INTER_AREA if height * _MAX_LINEAR_SHRINK < len(frames[0]) else cv2.INTER_LINEAR
    resized = np.empty((len(frames), height, width, 3), np.uint8)
    for frame, target in zip(frames, resized, strict=True):
        cv2.resize(frame, (width, height), dst=target, interpolation=method)
    return resized


def _keep_freed_memory() -> None:
    """Configure glibc to keep the memory that is freed after each batch.

    Mapping the memory again for every batch takes a third of the time of reading.
    """
    with contextlib.suppress(OSError, AttributeError):  # a C library other than glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 32 << 20)  # bytes, the maximum that glibc accepts
        mallopt(_TRIM_THRESHOLD, 256 << 20)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # constants in malloc.h
_keep_freed_memory()

# Clips are read in parallel already, so additional threads of OpenCV would only compete.
cv2.setNumThreads(0)
