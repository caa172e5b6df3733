"""Videos to batches of clips, by grain: the same for any number of workers, from any step on."""

import contextlib
import ctypes
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import cv2
import grain
import numpy as np
from absl import flags
from jaxtyping import Int, UInt8

from vcjax.data import video
from vcjax.data.manifest import Manifest, ManifestError
from vcjax.data.read_marks import Marks
from vcjax.runtime import preemption

log = logging.getLogger(__name__)

Batch = dict[str, np.ndarray]
_Sample = dict[str, np.ndarray | np.generic]


# Pictures are shrunk by less than this as they are enlarged: the means of areas cost five times as
# much, and differ by less than a grey level on average.
_MILD = 1.25
_REPLACEMENTS = 20  # drawn for a video that cannot be decoded, before it is an error


class _Video(NamedTuple):
    row: int  # of the manifest
    path: str
    num_frames: int
    clip: int = 0  # which of several clips of it


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
    """Batches {clip: uint8 [b, t, side, side, 3], index, bad: int32 [b], key: uint32 [b]}, a step.

    A clip is every `stride`-th frame and begins uniformly over what fits; a shorter video loops.
    Its crop is a square of one of `scales` short sides at a uniform place, resized to `side` pixels
    (Hara et al. 2018). `key` seeds what the device draws for the clip. For a video that cannot be
    decoded, or whose row is `excluded`, another is drawn, the same in every run, and `bad` is its
    row, else -1. Videos are marked in `marks` while they are read. Every epoch has its own order
    and leaves out what does not fill a batch; `dataset[step:]` goes on from a step.
    """
    listed = _videos(manifest)
    cut = _TrainingCut(num_frames, stride, side, tuple(scales), listed, excluded, marks)
    videos = grain.MapDataset.source(listed).seed(seed).shuffle()
    batches = videos.random_map(cut).batch(batch_size, drop_remainder=True)
    return batches.repeat(num_epochs)


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
    """Batches as in `training_clips`, a video's `clips_per_video` random clips one after another.

    The short side is resized to `side`, and the centre cut out. The last batch is filled up with
    clips whose index is -1; so is, with `skip_bad`, the place of one that cannot be decoded, which
    is an error else.
    """
    videos = [
        video._replace(clip=clip) for video in _videos(manifest) for clip in range(clips_per_video)
    ]
    videos += [videos[-1]._replace(row=-1)] * (-len(videos) % batch_size)
    cut = _EvaluationCut(num_frames, stride, side, clips_per_video, seed, skip_bad)
    return grain.MapDataset.source(videos).map(cut).batch(batch_size, drop_remainder=True)


def iterate(
    dataset: grain.MapDataset, *, num_workers: int, num_threads: int
) -> grain.DatasetIterator[Batch]:
    """The batches in order, read ahead by threads or, if there are workers, processes."""
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
    batches = dataset.to_iter_dataset(options)
    if num_workers:
        if not flags.FLAGS.is_parsed():  # grain reads its own, also where there is no absl app
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=num_workers), preemption.in_worker()
        )
    return iter(batches)


def watched(
    batches: Iterable[Batch], manifest: Manifest, *, max_bad_share: float
) -> Iterator[Batch]:
    """`batches` of training without `bad`; says at the end which videos these were.

    Raises ManifestError, with all of them, once they are more than `max_bad_share` of the videos.
    """
    bad: set[int] = set()
    try:
        for batch in batches:
            bad.update(row for row in batch.pop("bad").tolist() if row >= 0)
            if len(bad) > max_bad_share * len(manifest):
                raise ManifestError(
                    f"more than data.max_bad_share={max_bad_share:g} of the videos cannot be "
                    f"decoded:{_listed(bad, manifest)}"
                )
            yield batch
    finally:
        if bad:
            log.warning("%d videos were replaced:%s", len(bad), _listed(bad, manifest))


def _listed(rows: Iterable[int], manifest: Manifest) -> str:
    names = (f"\n  {manifest.video_ids[row]}: {manifest.paths[row]}" for row in sorted(rows))
    return "".join(names)


def _videos(manifest: Manifest) -> list[_Video]:
    return [
        _Video(row, path, num_frames)
        for row, (path, num_frames) in enumerate(
            zip(manifest.paths, manifest.num_frames, strict=True)
        )
    ]


class _TrainingCut(NamedTuple):
    num_frames: int
    stride: int
    side: int
    scales: tuple[float, ...]
    videos: list[_Video]  # to replace one that cannot be decoded
    excluded: frozenset[int]  # rows that are not to be read
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
            log.warning("left out: %s", error)
            black = np.zeros((self.num_frames, self.side, self.side, 3), np.uint8)
            return {"clip": black, "index": np.int32(-1), "key": np.uint32(0)}

    def _cut(self, source: _Video) -> _Sample:
        last = _last_start(source, self.num_frames, self.stride)
        starts = clip_starts(last, self.clips_per_video, seed=self.seed)
        frames = video.clip(
            source.path, int(starts[source.clip]), self.num_frames, stride=self.stride
        )
        height, width = frames.shape[1:3]
        scale = self.side / min(height, width)
        height, width = max(self.side, round(height * scale)), max(self.side, round(width * scale))
        frames = _resize(frames, height, width)
        top, left = (height - self.side) // 2, (width - self.side) // 2
        return {
            "clip": frames[:, top : top + self.side, left : left + self.side],
            "index": np.int32(source.row),
            "key": np.uint32(0),
        }


def clip_starts(last: int, clips_per_video: int, *, seed: int) -> Int[np.ndarray, " clips"]:
    """First frames, from 0 to `last`, of random clips in order; a single one is in the middle."""
    if clips_per_video == 1:
        return np.array([last // 2])
    generator = np.random.default_rng([seed, last])
    return np.sort(generator.integers(last + 1, size=clips_per_video))


def _last_start(source: _Video, num_frames: int, stride: int) -> int:
    """The last frame from which a clip fits, 0 for a shorter video."""
    return max(0, source.num_frames - ((num_frames - 1) * stride + 1))


def _resize(
    frames: UInt8[np.ndarray, "t h w 3"], height: int, width: int
) -> UInt8[np.ndarray, "t h2 w2 3"]:
    method = cv2.INTER_AREA if height * _MILD < len(frames[0]) else cv2.INTER_LINEAR
    found = np.empty((len(frames), height, width, 3), np.uint8)
    for frame, target in zip(frames, found, strict=True):
        cv2.resize(frame, (width, height), dst=target, interpolation=method)
    return found


def _keep_freed_memory() -> None:
    """Lets glibc keep what is freed after each batch: to map it anew costs a third of reading."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 32 << 20)  # bytes, the most that it takes
        mallopt(_TRIM_THRESHOLD, 256 << 20)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_keep_freed_memory()

# Readers are parallel already, and OpenCV's own threads would only wait for one another.
cv2.setNumThreads(0)
