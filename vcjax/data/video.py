"""Frames of video files, by PyAV: which streams, seeks and skips nothing."""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import av
import av.container
import numpy as np
from jaxtyping import UInt8

from vcjax.data import shards, tfds_videos
from vcjax.runtime import filesystem

Frame = UInt8[np.ndarray, "h w 3"]
A = TypeVar("A")
R = TypeVar("R")


class DecodeError(ValueError):
    """A video cannot be read; the message names the file and the reason in one line."""


class VideoInfo(NamedTuple):
    """Size of a video; `num_frames` is counted if every frame was decoded, else as declared.

    `height` and `width` are those of the file, whose pictures may be shown turned.
    """

    num_frames: int
    height: int
    width: int
    fps: float


def probe(path: str | Path, *, decode: bool) -> VideoInfo:
    """Size of the video at `path`; with `decode`, every frame of it is decoded and counted.

    Raises DecodeError when there is no readable frame, or fewer than the file declares, or when the
    decoder finds one damaged.
    """
    if stored := _among_others(str(path)):
        first, *_ = stored.read(range(stored.num_frames) if decode else [0])
        return VideoInfo(stored.num_frames, first.shape[0], first.shape[1], 0.0)
    path = str(path)
    try:
        if not filesystem.stamp(path)[0]:
            raise DecodeError(f"{path}: the file is empty")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DecodeError(f"{path}: no such file") from error
    except OSError as error:  # as of a name that is too long
        raise DecodeError(f"{path}: {_reason(error)}") from error
    with _open(path) as container:
        stream = _stream(path, container)
        declared = stream.frames
        info = VideoInfo(declared, stream.height, stream.width, float(stream.average_rate or 0))
        if not decode and declared:
            return info
        # else damaged pictures are made up from those before them
        stream.codec_context.options = {"err_detect": "explode"}
        num_frames = 0
        try:
            for _ in container.decode(stream):
                num_frames += 1
        except av.FFmpegError as error:
            found = f"{num_frames} of {declared or 'unknown'} frames can be decoded"
            raise DecodeError(f"{path}: {_reason(error)}: damaged or truncated, {found}") from error
    check_count(path, num_frames, declared)
    return info._replace(num_frames=num_frames)


def check_count(path: str | Path, num_frames: int, declared: int) -> None:
    """Raises DecodeError when there is no frame, or fewer than declared."""
    if num_frames == 0:
        raise DecodeError(f"{path}: no frame can be decoded")
    if num_frames < declared - _SLACK:
        raise DecodeError(f"{path}: truncated, {num_frames} of {declared} frames can be decoded")


# Encoders count a frame or two that edit lists then hide.
_SLACK = 2


def frames(path: str | Path) -> Iterator[Frame]:
    """Every frame of the video in order, RGB, one in memory at a time. Raises DecodeError."""
    if found := _among_others(str(path)):
        for start in range(0, found.num_frames, shards.CHUNK):
            yield from found.read(range(start, min(start + shards.CHUNK, found.num_frames)))
        return
    path = str(path)
    with _open(path) as container:
        stream = _stream(path, container)
        try:
            for frame in container.decode(stream):
                yield _rgb(frame)
        except av.FFmpegError as error:
            raise DecodeError(f"{path}: {_reason(error)}") from error


def clip(
    path: str | Path, start: int, num_frames: int, *, stride: int = 1
) -> UInt8[np.ndarray, "t h w 3"]:
    """`num_frames` frames of the video, every `stride`-th from `start`, RGB; past its end it loops.

    Decodes from the key frame before the first. Raises DecodeError.
    """
    span = (num_frames - 1) * stride + 1
    if stored := _among_others(str(path)):
        return np.stack(
            stored.read([i % stored.num_frames for i in range(start, start + span, stride)])
        )
    found = _decode_from(str(path), start, span)
    if len(found) < span:  # over the end: the video starts again
        whole = _decode_from(str(path), 0, span)
        if not whole:
            raise DecodeError(f"{path}: no frame can be decoded")
        while len(found) < span:
            found += whole
    return np.stack([_rgb(frame) for frame in found[:span:stride]])


class _Stored(NamedTuple):
    """A video in a file of many."""

    num_frames: int
    read: Callable[[Sequence[int]], list[Frame]]  # raises DecodeError


def _among_others(path: str) -> _Stored | None:
    if place := shards.parse(path):
        return _Stored(place.num_frames, _explained(path, partial(shards.read, place)))
    if record := tfds_videos.parse(path):
        pictures = _explained(path, tfds_videos.pictures)(record)
        decode = lambda wanted: [shards.decode_picture(pictures[i]) for i in wanted]  # noqa: E731
        return _Stored(len(pictures), _explained(path, decode))
    return None


def _explained(path: str, read: Callable[[A], R]) -> Callable[[A], R]:
    """`read`, whose errors are DecodeErrors."""

    def explained(argument: A) -> R:
        try:
            return read(argument)
        except (ValueError, IndexError, RuntimeError, OSError, av.FFmpegError) as error:
            raise DecodeError(f"{path}: {_reason(error)}") from error

    return explained


def _decode_from(path: str, start: int, num_frames: int) -> list[av.VideoFrame]:
    """At most `num_frames` frames from `start` on, in the colours of the file."""
    with _open(path) as container:
        stream = _stream(path, container)
        try:
            skip = _seek(container, stream, start)
            found: list[av.VideoFrame] = []
            for frame in container.decode(stream):
                if skip(frame):
                    continue
                found.append(frame)
                if len(found) == num_frames:
                    break
        except av.FFmpegError as error:
            raise DecodeError(f"{path}: {_reason(error)}") from error
    return found


def _rgb(frame: av.VideoFrame) -> Frame:
    # threads of its own cost more than a small picture's conversion
    picture = frame.to_ndarray(format="rgb24", threads=1)
    turns = _quarter_turns(frame)
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def _quarter_turns(frame: av.VideoFrame) -> int:
    """How often it is turned, counterclockwise, to be upright, as its display matrix says."""
    return round(frame.rotation / 90) % 4


def _seek(
    container: av.container.InputContainer, stream: av.VideoStream, start: int
) -> Callable[[av.VideoFrame], bool]:
    """Goes to the key frame before frame `start`; returns which decoded frames come before it.

    Frames are told by their time stamps where these count frames exactly, else counted from the
    first: of AVI files with B-frames the decoder's stamps do not survive a seek.
    """
    rate, base = stream.average_rate, stream.time_base
    step = 1 / (rate * base) if rate and base else Fraction(0)  # time stamps a frame
    even = step > 0 and step.denominator == 1 and stream.base_rate == rate
    exact = even and stream.frames and stream.duration == stream.frames * step
    trusted = container.format.name != "avi" or not stream.codec_context.has_b_frames
    if start == 0 or not (exact and trusted):
        count = iter(range(start + 1))
        return lambda frame: next(count, start) < start
    wanted = (stream.start_time or 0) + start * int(step)
    container.seek(wanted, stream=stream, backward=True, any_frame=False)
    return lambda frame: frame.pts is None or frame.pts < wanted


def _open(path: str) -> av.container.InputContainer:
    try:
        # Metadata is not ours to judge: some of HMDB51 is not UTF-8.
        with filesystem.local_copy(path) as file:  # which stays readable once it is open
            return av.open(str(file), metadata_errors="ignore")
    except (av.FFmpegError, OSError) as error:
        raise DecodeError(f"{path}: {_reason(error)}") from error


def _stream(path: str, container: av.container.InputContainer) -> av.VideoStream:
    if not container.streams.video:
        raise DecodeError(f"{path}: there is no video in the file")
    stream = container.streams.video[0]
    if stream.codec_context is None:  # as of a file whose header is cut or of an unknown codec
        raise DecodeError(f"{path}: there is no decoder for the video in the file")
    stream.thread_count = 1  # clips are read in parallel, one thread each
    return stream


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).splitlines()[0]
