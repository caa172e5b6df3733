"""Readers of video files, which PyAV decodes, and of videos stored in shards or tfds records.

PyAV decodes frame by frame with constant memory, seeks to key frames and drops no frame.
"""

import abc
import contextlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import filterfalse, islice
from typing import Any, NamedTuple, Protocol

import av
import av.container
import numpy as np
from jaxtyping import UInt8

from vcjax.data import shards, tfds_videos
from vcjax.runtime import filesystem

Frame = UInt8[np.ndarray, "h w 3"]


class DecodeError(ValueError):
    """Error of a video that cannot be read; the one-line message has the file and the reason."""


class VideoInfo(NamedTuple):
    """Length, stored size and rate of a video."""

    num_frames: int  # counted if every frame was decoded, else as the file declares
    height: int  # pixels, before any rotation for display
    width: int  # pixels, before any rotation for display
    fps: float  # frames per second, 0 if unknown


class Reader(Protocol):
    """A video to read. All methods raise DecodeError if the video cannot be decoded."""

    def probe(self, *, decode: bool) -> VideoInfo:
        """Return the length, size and rate; with `decode`, decode every frame."""

    def frames(self) -> Iterator[Frame]:
        """Yield every frame in order, RGB in [0, 255], in constant memory."""

    def read(self, indices: Sequence[int]) -> list[Frame]:
        """Return the frames at ascending `indices`; the video is repeated past its end."""


def open_video(path: str) -> Reader:
    """Return the reader of the video file, shard entry or tfds record that `path` refers to."""
    if entry := shards.parse(path):
        return _ShardVideo(path, entry)
    if record := tfds_videos.parse(path):
        return _TfdsVideo(path, record)
    return _VideoFile(path)


class _VideoFile:
    """A video file. Its exact length is unknown until every frame has been decoded."""

    def __init__(self, path: str) -> None:
        self._path = path

    def probe(self, *, decode: bool) -> VideoInfo:
        path = self._path
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

    def frames(self) -> Iterator[Frame]:
        with _decode_errors(self._path, av.FFmpegError):
            yield from map(_rgb, self._decode_from(0))

    def read(self, indices: Sequence[int]) -> list[Frame]:
        start, span = indices[0], indices[-1] - indices[0] + 1
        decoded = list(islice(self._decode_from(start), span))
        if len(decoded) < span:  # the indices extend past the end of the video
            whole = list(islice(self._decode_from(0), span))
            if not whole:
                raise DecodeError(f"{self._path}: no frame can be decoded")
            while len(decoded) < span:
                decoded += whole
        return [_rgb(decoded[index - start]) for index in indices]

    def _decode_from(self, start: int) -> Iterator[av.VideoFrame]:
        """Yield the frames from `start` on, in the pixel format of the file."""
        with _open(self._path) as container, _decode_errors(self._path, av.FFmpegError):
            stream = _stream(self._path, container)
            skip = _seek(container, stream, start)
            yield from filterfalse(skip, container.decode(stream))


class _StoredVideo(abc.ABC):
    """A video in a file of many, whose length is stored and whose rate is not."""

    def __init__(self, path: str, num_frames: int) -> None:
        self._path, self._num_frames = path, num_frames

    @abc.abstractmethod
    def _decode(self, indices: Sequence[int]) -> list[Frame]: ...

    def probe(self, *, decode: bool) -> VideoInfo:
        first, *_ = self.read(range(self._num_frames) if decode else [0])
        return VideoInfo(self._num_frames, first.shape[0], first.shape[1], 0.0)

    def frames(self) -> Iterator[Frame]:
        for start in range(0, self._num_frames, shards.CHUNK):
            yield from self.read(range(start, min(start + shards.CHUNK, self._num_frames)))

    def read(self, indices: Sequence[int]) -> list[Frame]:
        with _decode_errors(self._path, *_STORAGE_ERRORS):
            return self._decode([index % self._num_frames for index in indices])


class _ShardVideo(_StoredVideo):
    def __init__(self, path: str, entry: shards.Reference) -> None:
        super().__init__(path, entry.num_frames)
        self._entry = entry

    def _decode(self, indices: Sequence[int]) -> list[Frame]:
        return shards.read(self._entry, indices)


class _TfdsVideo(_StoredVideo):
    def __init__(self, path: str, record: tfds_videos.Reference) -> None:
        with _decode_errors(path, *_STORAGE_ERRORS):
            self._pictures = tfds_videos.pictures(record)
        super().__init__(path, len(self._pictures))

    def _decode(self, indices: Sequence[int]) -> list[Frame]:
        return [shards.decode_picture(self._pictures[index]) for index in indices]


_STORAGE_ERRORS = (ValueError, IndexError, RuntimeError, OSError, av.FFmpegError)


def check_count(path: str, num_frames: int, declared: int) -> None:
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
    # An open file stays readable after its temporary copy is deleted.
    with _decode_errors(path, av.FFmpegError, OSError), filesystem.local_copy(path) as file:
        return av.open(str(file), **_OPEN_OPTIONS)


# Some files of HMDB51 have metadata that is not UTF-8. PyAV 19 accepts them and has no such option.
_OPEN_OPTIONS: dict[str, Any] = (
    {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}
)


def _stream(path: str, container: av.container.InputContainer) -> av.VideoStream:
    if not container.streams.video:
        raise DecodeError(f"{path}: there is no video stream in the file")
    stream = container.streams.video[0]
    if stream.codec_context is None:  # a truncated header or an unknown codec
        raise DecodeError(f"{path}: there is no decoder for the video stream in the file")
    stream.thread_count = 1  # clips are decoded in parallel, one thread each
    return stream


def _rgb(frame: av.VideoFrame) -> Frame:
    # For a small frame, starting threads costs more than the conversion.
    picture = frame.to_ndarray(format="rgb24", threads=1)
    turns = round(frame.rotation / 90) % 4  # counterclockwise, of the display matrix
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


@contextlib.contextmanager
def _decode_errors(path: str, *kinds: type[Exception]) -> Iterator[None]:
    """Convert errors of these kinds within the block to DecodeError."""
    try:
        yield
    except kinds as error:
        raise DecodeError(f"{path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).splitlines()[0]
