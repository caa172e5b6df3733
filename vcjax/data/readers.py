"""Readers of video files, which PyAV decodes, and of videos stored in shards or tfds records.

PyAV decodes frame by frame with constant memory, seeks to key frames and drops no frame.
"""

import abc
import bisect
import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import av
import av.container
from av.codec.context import Flags
from av.stream import Disposition

from vcjax.data import display, missing_time, shards, tfds_videos
from vcjax.data.display import Decoded, Frame
from vcjax.runtime import filesystem


class DecodeError(ValueError):
    """Error of a video that cannot be read; the one-line message has the file and the reason."""


class VideoInfo(NamedTuple):
    """Length, stored size and rate of a video."""

    num_frames: int  # counted if every frame was decoded, else as the file declares
    height: int  # pixels, before any rotation for display
    width: int  # pixels, before any rotation for display
    fps: float  # frames per second, 0 if unknown
    seekable: bool = True  # False if a clip is decoded from the first frame of the video on


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


def declared_size(path: str) -> tuple[int, int]:
    """Return height and width in pixels that the header of a video file states.

    Raises:
      DecodeError: if the file cannot be opened.
    """
    with _open(path) as container:
        stream = _stream(path, container)
        return stream.height, stream.width


class _VideoFile:
    """A video file. Its exact length is unknown until every frame has been decoded."""

    def __init__(self, path: str) -> None:
        self._path = path

    def probe(self, *, decode: bool) -> VideoInfo:
        path = self._path
        try:
            num_bytes, _ = filesystem.file_version(path)
            if not num_bytes and (filesystem.is_remote(path) or Path(path).is_file()):
                raise DecodeError(f"{path}: the file is empty")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DecodeError(f"{path}: no such file") from error
        except OSError as error:  # for example a file name that is too long
            raise DecodeError(f"{path}: {_reason(error)}") from error
        with _open(path) as container, _decode_errors(path, av.FFmpegError):
            stream = _stream(path, container)
            seekable = _is_seekable(container, stream)
            info = VideoInfo(_length(stream), stream.height, stream.width, _rate(stream), seekable)
            exact = decode and bool(_exact_times(container, stream))
        if not decode and info.num_frames:
            return info
        num_frames = sum(1 for _ in self._decode_whole())
        seekable = seekable and (exact or bool(_times(path, filesystem.file_version(path))))
        return info._replace(num_frames=num_frames, seekable=seekable)

    def frames(self) -> Iterator[Frame]:
        return map(display.picture, self._decode_whole())

    def read(self, indices: Sequence[int]) -> list[Frame]:
        start, span = indices[0], indices[-1] - indices[0] + 1
        decoded = self._seek_and_decode(start, span) if start else None
        if decoded is None:
            decoded = list(islice(self._decode_whole(), start, start + span))
        if len(decoded) < span:  # the indices extend past the end of the video
            whole = list(islice(self._decode_whole(), span)) if start else decoded.copy()
            while len(decoded) < span:
                decoded += whole
        return [display.picture(decoded[index - start]) for index in indices]

    def _decode_whole(self) -> Iterator[Decoded]:
        """Yield every frame in the pixel format of the file.

        Raises:
          DecodeError: if a frame is damaged or differs in size, if there is no frame, or at the end
            if the file is truncated.
        """
        path, count = self._path, 0
        with _open(path) as container:
            stream = _stream(path, container)
            # By default the decoder conceals damage by copying from earlier frames.
            stream.codec_context.options = {"err_detect": "explode"}
            end = missing_time.End(path, container, stream)
            counts = f"of {_length(stream) or 'unknown'} frames can be decoded"
            try:
                frames = _same_size(path, _decode(end.watch(container.demux()), stream), 0)
                for shown in display.decoded(frames):
                    count += 1
                    yield shown
            except av.FFmpegError as error:
                reason = f"{_reason(error)}: damaged or truncated"
                raise DecodeError(f"{path}: {reason}, {count} {counts}") from error
            if count == 0:
                raise DecodeError(f"{path}: no frame can be decoded")
            if end.is_early():
                raise DecodeError(f"{path}: truncated, {count} {counts}")

    def _seek_and_decode(self, start: int, span: int) -> list[Decoded] | None:
        """Return up to `span` frames from frame `start` on, None if this requires all before it.

        Frames are identified by their time stamps. If the frames after the seek have other time
        stamps than the packets of the file, the result is None.
        """
        path = self._path
        with _open(path) as container, _decode_errors(path, av.FFmpegError):
            stream = _stream(path, container)
            if not _is_seekable(container, stream):
                return None
            times: Sequence[int] = _exact_times(container, stream)
            times = times or _times(path, filesystem.file_version(path))
            expected = list(times[start : start + span])
            if not expected or not stream.time_base:
                return None
            # Some demuxers search for the time of decoding, which is before the time of display.
            early = _EARLY / stream.time_base if container.format.name in _BY_DECODING_TIME else 0
            try:
                container.seek(int(expected[0] - early), stream=stream)
            except av.FFmpegError:  # there is no such time in the index
                return None
            decoded: list[Decoded] = []
            for shown in display.decoded(_from_key_frame(_decode(container.demux(stream), stream))):
                if shown.frame.is_corrupt:
                    raise DecodeError(f"{path}: a frame before frame {start + span} is damaged")
                if (shown.frame.pts or 0) >= expected[0]:
                    decoded.append(shown)
                if len(decoded) == len(expected):
                    break
            if [shown.frame.pts for shown in decoded] != expected:
                return None
            for _ in _same_size(path, (shown.frame for shown in decoded), start):
                pass
            return decoded


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


_BY_DECODING_TIME = ("mpegts", "mpeg", "flv")
_EARLY = Fraction(1)  # seconds between decoding and display, at most
_UNSTATED = 1 << 30  # frames that an AVI file declares if it was written to a pipe
_MAX_EMPTY = 8  # bytes of a packet that may be a frame that is not coded
_MAY_BEGIN_OPEN = ("mpeg1video", "mpeg2video", "hevc")  # with B-frames of a missing key frame
_MAY_SKIP = ("mpeg4", "msmpeg4", "msmpeg4v2", "wmv1", "wmv2", "h263", "vc1", "wmv3")


def _decode(packets: Iterator[av.Packet], stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    for packet in packets:
        # An empty packet repeats the frame before it; the decoder would take it for the end.
        if packet.size or packet.dts is None:
            yield from stream.codec_context.decode(packet if packet.size else None)


def _from_key_frame(frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Yield the first key frame and the frames after it, without frames that refer to earlier ones.

    Frames without a time are left out.
    """
    key = None
    for frame in frames:
        key = frame.pts if key is None and frame.key_frame else key
        if key is not None and frame.pts is not None and frame.pts >= key:
            yield frame


def _same_size(path: str, frames: Iterator[av.VideoFrame], start: int) -> Iterator[av.VideoFrame]:
    """Yield the frames, of which the first has index `start`.

    Raises:
      DecodeError: if a frame differs in size from the frames before it.
    """
    size = None
    for index, frame in enumerate(frames, start):
        size = size or (frame.width, frame.height)
        if (frame.width, frame.height) != size:
            raise DecodeError(
                f"{path}: frame {index} has {frame.width} x {frame.height} pixels, the frames "
                f"before it {size[0]} x {size[1]}; encode the video with one size"
            )
        yield frame


def _length(stream: av.VideoStream) -> int:
    """Return the number of frames that the file declares, without frames that are not shown.

    It is 0 if the file declares none, or if its index has fewer frames than it declares.
    """
    entries = stream.index_entries
    declared = stream.frames if stream.frames < _UNSTATED else 0
    if not declared or len(entries) < 2:
        return declared
    if len(entries) < declared:
        return 0
    return sum(entry.size > 0 and not entry.is_discard for entry in entries)


def _rate(stream: av.VideoStream) -> float:
    """Return the frames per second of a stream, 0 if unknown."""
    average, base = stream.average_rate, stream.base_rate
    # All times are multiples of 1 / base, so a much higher average is a wrong estimate.
    if average and not (base and average > 2 * base):
        return float(average)
    return float(stream.guessed_rate or base or 0)


def _exact_times(container: av.container.InputContainer, stream: av.VideoStream) -> range:
    """Return the times of all frames if they follow from the header, else an empty range.

    The first packet is read, since frames before the first key frame cannot be decoded.
    """
    step, first = _exact_step(stream), stream.start_time or 0
    if not step or not _begins_with_key_frame(next(container.demux(stream)), first):
        return range(0)
    return range(first, first + stream.frames * step, step)


def _begins_with_key_frame(packet: av.Packet, first: int) -> bool:
    """Return True if the first packet is a key frame, and no frame is shown before it."""
    return packet.is_keyframe and (packet.pts is None or packet.pts <= first)


def _exact_step(stream: av.VideoStream) -> int:
    """Return the time between two frames if it is constant and exact, else 0."""
    rate, base = stream.average_rate, stream.time_base
    step = 1 / (rate * base) if rate and base else Fraction(0)  # time stamp units per frame
    even = step > 0 and step.denominator == 1 and stream.base_rate == rate
    exact = even and stream.frames and stream.duration == stream.frames * step
    # The first H.264 frame of an AVI file may have a later time than the file states.
    is_avi = stream.container.format.name == "avi"
    if not exact or is_avi or _length(stream) != stream.frames:
        return 0
    skips = stream.codec.name in _MAY_SKIP and _has_tiny(e.size for e in stream.index_entries)
    return 0 if skips else int(step)


def _has_tiny(sizes: Iterable[int]) -> bool:
    return any(0 < size <= _MAX_EMPTY for size in sizes)


def _is_seekable(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    if stream.codec_context.pix_fmt == "pal8":  # a demuxer gives a palette once, where it changes
        return False
    # After a seek in an AVI file the time stamps of B-frames are wrong.
    return container.format.name != "avi" or not stream.codec_context.has_b_frames


@functools.lru_cache(64)
def _times(path: str, version: tuple[int, str]) -> tuple[int, ...]:
    """Return the time stamps of all frames in order of display, () if packets do not tell them.

    The packets are read, but not decoded.
    """
    del version  # part of the key
    times: list[int] = []
    sizes: list[int] = []
    head: av.Packet | None = None
    with _open(path) as container, _decode_errors(path, av.FFmpegError):
        stream = _stream(path, container)
        packets = missing_time.End(path, container, stream).watch(container.demux(stream))
        for packet in packets:
            head = head or packet
            if packet.size and not packet.is_discard and not _is_hidden(packet, stream):
                if packet.pts is None:
                    return ()
                times.append(packet.pts)
                sizes.append(packet.size)
        name = stream.codec.name
    if len(set(times)) < len(times) or (name in _MAY_SKIP and _has_tiny(sizes)):
        return ()
    times.sort()
    if times and head and _begins_with_key_frame(head, times[0]) and name not in _MAY_BEGIN_OPEN:
        return tuple(times)
    first = _first_times(path)
    shown = bisect.bisect_left(times, first[0]) if first else 0
    return tuple(times[shown:]) if first == times[shown : shown + len(first)] else ()


def _first_times(path: str) -> list[int]:
    """Return the times of the first few frames that can be decoded.

    If a stream begins between key frames, its first frames refer to missing frames.
    """
    with _open(path) as container, _decode_errors(path, av.FFmpegError):
        stream = _stream(path, container)
        frames = _decode(container.demux(stream), stream)
        return [frame.pts for frame in islice(frames, 3) if frame.pts is not None]


def _is_hidden(packet: av.Packet, stream: av.VideoStream) -> bool:
    """Return True for a VP8 frame that is only referred to (RFC 6386, Sec. 9.1)."""
    return stream.codec.name == "vp8" and not memoryview(packet)[0] & 0x10


def _open(path: str) -> av.container.InputContainer:
    # An open file stays readable after its temporary copy is deleted.
    with _decode_errors(path, av.FFmpegError, OSError), filesystem.local_copy(path) as file:
        if file.exists() and not file.is_file():  # a pipe would be waited for
            raise OSError("not a regular file")
        return av.open(str(file), **_OPEN_OPTIONS)


# Some files of HMDB51 have metadata that is not UTF-8. PyAV 19 accepts them and has no such option.
_OPEN_OPTIONS: dict[str, Any] = (
    {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}
)


def _stream(path: str, container: av.container.InputContainer) -> av.VideoStream:
    """Return the video stream that players choose; cover art only if there is nothing else."""
    if not container.streams.video:
        raise DecodeError(f"{path}: there is no video stream in the file")
    films = [s for s in container.streams.video if not s.disposition & _COVER]
    best = container.streams.best("video")
    stream = next((s for s in films if best is not None and s.index == best.index), None)
    stream = stream or (films or container.streams.video)[0]
    if stream.codec_context is None:  # a truncated header or an unknown codec
        raise DecodeError(f"{path}: there is no decoder for the video stream in the file")
    stream.thread_count = 1  # clips are decoded in parallel, one thread each
    stream.codec_context.flags |= Flags.unaligned  # or the left of the picture is not cropped
    return stream


_COVER = Disposition.attached_pic | Disposition.timed_thumbnails


@contextlib.contextmanager
def _decode_errors(path: str, *kinds: type[Exception]) -> Iterator[None]:
    """Convert errors of these kinds within the block to DecodeError."""
    try:
        yield
    except kinds as error:
        raise DecodeError(f"{path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, PermissionError) and error.errno:  # not of an object store
        return filesystem.NO_PERMISSION
    return (getattr(error, "strerror", None) or str(error)).splitlines()[0]
