"""Frames of video files, decoded by PyAV, and of videos stored in shards or tfds records.

PyAV decodes frame by frame with constant memory, seeks to key frames and drops no frame.
"""

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
    """Error of a video that cannot be read; the one-line message has the file and the reason."""


class VideoInfo(NamedTuple):
    """Length, size and rate of a video.

    `height` and `width` are the stored size, before any rotation for display.
    """

    num_frames: int  # counted if every frame was decoded, else as the file declares
    height: int  # pixels
    width: int  # pixels
    fps: float  # frames per second, 0 if unknown


def probe(path: str | Path, *, decode: bool) -> VideoInfo:
    """Return the length, size and rate of the video at `path`.

    With `decode`, or if the file does not declare its length, every frame is decoded and counted.

    Raises:
      DecodeError: if the file cannot be opened. While decoding also if a frame is damaged, if there
        is no frame, or if there are fewer frames than the file declares.
    """
    if stored := _stored_video(str(path)):
        first, *_ = stored.read(range(stored.num_frames) if decode else [0])
        return VideoInfo(stored.num_frames, first.shape[0], first.shape[1], 0.0)
    path = str(path)
    try:
        if not filesystem.file_version(path)[0]:
            raise DecodeError(f"{path}: the file is empty")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DecodeError(f"{path}: no such file") from error
    except OSError as error:  # for example a file name that is too long
        raise DecodeError(f"{path}: {_reason(error)}") from error
    with _open(path) as container:
        stream = _stream(path, container)
        declared = stream.frames
        info = VideoInfo(declared, stream.height, stream.width, float(stream.average_rate or 0))
        if not decode and declared:
            return info
        # By default the decoder conceals damage by copying from earlier frames.
        stream.codec_context.options = {"err_detect": "explode"}
        num_frames = 0
        try:
            for _ in container.decode(stream):
                num_frames += 1
        except av.FFmpegError as error:
            counts = f"{num_frames} of {declared or 'unknown'} frames can be decoded"
            raise DecodeError(
                f"{path}: {_reason(error)}: damaged or truncated, {counts}"
            ) from error
    check_count(path, num_frames, declared)
    return info._replace(num_frames=num_frames)


def check_count(path: str | Path, num_frames: int, declared: int) -> None:
    """Check the number of decoded frames against the number that the file declares.

    Raises:
      DecodeError: if `num_frames` is 0, or smaller than `declared` by more than 2.
    """
    if num_frames == 0:
        raise DecodeError(f"{path}: no frame can be decoded")
    if num_frames < declared - _SLACK:
        raise DecodeError(f"{path}: truncated, {num_frames} of {declared} frames can be decoded")


# Encoders may declare one or two frames that edit lists then hide.
_SLACK = 2


def frames(path: str | Path) -> Iterator[Frame]:
    """Yield every frame of the video in order, RGB in [0, 255].

    Only one frame, or one chunk of a stored video, is in memory at a time.

    Raises:
      DecodeError: if the video cannot be decoded.
    """
    if stored := _stored_video(str(path)):
        for start in range(0, stored.num_frames, shards.CHUNK):
            yield from stored.read(range(start, min(start + shards.CHUNK, stored.num_frames)))
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
    """Return `num_frames` frames of the video from frame `start` on, RGB in [0, 255].

    The clip consists of every `stride`-th frame; a video that ends early is repeated from its first
    frame. Decoding begins at the last key frame before `start`.

    Raises:
      DecodeError: if the video cannot be decoded.
    """
    span = (num_frames - 1) * stride + 1
    if stored := _stored_video(str(path)):
        return np.stack(
            stored.read([i % stored.num_frames for i in range(start, start + span, stride)])
        )
    decoded = _decode_from(str(path), start, span)
    if len(decoded) < span:  # the clip extends past the end of the video
        whole = _decode_from(str(path), 0, span)
        if not whole:
            raise DecodeError(f"{path}: no frame can be decoded")
        while len(decoded) < span:
            decoded += whole
    return np.stack([_rgb(frame) for frame in decoded[:span:stride]])


class _Stored(NamedTuple):
    """A video in a file that contains many videos."""

    num_frames: int
    read: Callable[[Sequence[int]], list[Frame]]  # raises DecodeError


def _stored_video(path: str) -> _Stored | None:
    """Return the video that `path` refers to in a shard or tfds file, None for a video file."""
    if place := shards.parse(path):
        return _Stored(place.num_frames, _as_decode_errors(path, partial(shards.read, place)))
    if record := tfds_videos.parse(path):
        pictures = _as_decode_errors(path, tfds_videos.pictures)(record)
        decode = lambda indices: [shards.decode_picture(pictures[i]) for i in indices]  # noqa: E731
        return _Stored(len(pictures), _as_decode_errors(path, decode))
    return None


def _as_decode_errors(path: str, read: Callable[[A], R]) -> Callable[[A], R]:
    """Return `read` with its errors converted to DecodeError."""

    def wrapped(argument: A) -> R:
        try:
            return read(argument)
        except (ValueError, IndexError, RuntimeError, OSError, av.FFmpegError) as error:
            raise DecodeError(f"{path}: {_reason(error)}") from error

    return wrapped


def _decode_from(path: str, start: int, num_frames: int) -> list[av.VideoFrame]:
    """Return at most `num_frames` frames from `start` on, in the pixel format of the file."""
    with _open(path) as container:
        stream = _stream(path, container)
        try:
            skip = _seek(container, stream, start)
            decoded: list[av.VideoFrame] = []
            for frame in container.decode(stream):
                if skip(frame):
                    continue
                decoded.append(frame)
                if len(decoded) == num_frames:
                    break
        except av.FFmpegError as error:
            raise DecodeError(f"{path}: {_reason(error)}") from error
    return decoded


def _rgb(frame: av.VideoFrame) -> Frame:
    # For a small frame, starting threads costs more than the conversion.
    picture = frame.to_ndarray(format="rgb24", threads=1)
    turns = _quarter_turns(frame)
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Return the counterclockwise quarter turns that the display matrix of the frame requires."""
    return round(frame.rotation / 90) % 4


def _seek(
    container: av.container.InputContainer, stream: av.VideoStream, start: int
) -> Callable[[av.VideoFrame], bool]:
    """Seek to the key frame before frame `start`; return a test for frames to skip until `start`.

    Frames are identified by their time stamps if the frame rate is constant and exact. Otherwise
    decoding begins at the first frame and frames are counted; this includes AVI files with
    B-frames, whose time stamps are wrong after a seek.
    """
    rate, base = stream.average_rate, stream.time_base
    step = 1 / (rate * base) if rate and base else Fraction(0)  # time stamp units per frame
    even = step > 0 and step.denominator == 1 and stream.base_rate == rate
    exact = even and stream.frames and stream.duration == stream.frames * step
    trusted = container.format.name != "avi" or not stream.codec_context.has_b_frames
    if start == 0 or not (exact and trusted):
        count = iter(range(start + 1))
        return lambda frame: next(count, start) < start
    target = (stream.start_time or 0) + start * int(step)
    container.seek(target, stream=stream, backward=True, any_frame=False)
    return lambda frame: frame.pts is None or frame.pts < target


def _open(path: str) -> av.container.InputContainer:
    try:
        # Undecodable metadata is ignored: some files of HMDB51 have metadata that is not UTF-8.
        # An open file stays readable after its temporary copy is deleted.
        with filesystem.local_copy(path) as file:
            return av.open(str(file), metadata_errors="ignore")
    except (av.FFmpegError, OSError) as error:
        raise DecodeError(f"{path}: {_reason(error)}") from error


def _stream(path: str, container: av.container.InputContainer) -> av.VideoStream:
    if not container.streams.video:
        raise DecodeError(f"{path}: there is no video stream in the file")
    stream = container.streams.video[0]
    if stream.codec_context is None:  # a truncated header or an unknown codec
        raise DecodeError(f"{path}: there is no decoder for the video stream in the file")
    stream.thread_count = 1  # clips are decoded in parallel, one thread each
    return stream


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).splitlines()[0]
