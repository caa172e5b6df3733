"""Detection of truncated videos by time: that of their packets against that of their container."""

import errno
from collections.abc import Iterator
from fractions import Fraction

import av
import av.container
import numpy as np

from vcjax.data import file_ends
from vcjax.runtime import filesystem

_STATES_DURATION = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "flv", "asf")
_SLACK = Fraction(1, 10)  # seconds by which a duration may exceed the frames
_OTHER_STREAMS = Fraction(1)  # likewise for a duration of all streams together
_MAX_B_FRAMES = 4  # in a row, usually


class End:
    """Comparison of the end of the packets with the end that the container states."""

    def __init__(
        self, path: str, container: av.container.InputContainer, stream: av.VideoStream
    ) -> None:
        with filesystem.local_copy(path) as file:
            self._is_cut = file_ends.is_cut(file, container.format.name)
        self._container, self._stream = container, stream
        self._recent: list[av.Packet] = []  # the last two of the video
        self._ends: dict[int, Fraction] = {}  # seconds, by stream
        self._times: list[int] = []  # of the video's packets

    def watch(self, packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
        """Yield the packets of the video, given the packets of all streams.

        Raises:
            InvalidDataError: If packets are missing within the video.
        """
        for packet in packets:
            # not `stream_index`, which is 0 in the last packet of every stream
            index, time = packet.stream.index, packet.dts if packet.pts is None else packet.pts
            if time is not None and packet.time_base:
                end = (time + (packet.duration or 0)) * packet.time_base
                self._ends[index] = max(end, self._ends.get(index, end))
            if index == self._stream.index:
                self._check_loss(packet)
                self._times += [] if packet.pts is None else [packet.pts]
                yield packet

    def _check_loss(self, packet: av.Packet) -> None:
        """Raise InvalidDataError if packets are missing before `packet`.

        FFmpeg marks the packet of MPEG-TS before the one in which a counter jumps. Where recordings
        were joined, it jumps as well, before a key frame.
        """
        if not packet.size:
            return
        if len(self._recent) == 2:
            marked, damaged = self._recent
            step = (packet.dts or 0) - (damaged.dts or 0)
            is_joint = packet.is_keyframe and step * (packet.time_base or 0) <= self._slack()
            if marked.is_corrupt and not is_joint:
                raise av.InvalidDataError(errno.EINVAL, "packets are missing")
        self._recent = [*self._recent[-1:], packet]

    def is_early(self) -> bool:
        """Return True if the last packet is incomplete or time is missing at the end."""
        missing = self._missing()
        is_corrupt = any(packet.is_corrupt for packet in self._recent)
        if self._is_cut or missing is None:
            return (
                is_corrupt
                or self._has_gap()
                or (self._is_cut and (missing is None or missing > self._slack()))
            )
        # An AVI file declares empty frames at its end, which are no packets.
        is_stated = self._container.format.name != "avi"
        slack = self._slack() if self._stream.duration else _OTHER_STREAMS
        return is_corrupt or (is_stated and missing > slack)

    def _missing(self) -> Fraction | None:
        """Return the seconds missing at the end, None if the container states no duration.

        An ASF file states a duration of all its streams, which FFmpeg copies to each of them.
        """
        if self._container.format.name not in _STATES_DURATION or not self._ends:
            return None
        stream = self._stream
        if stream.duration and stream.time_base and self._container.format.name != "asf":
            end = ((stream.start_time or 0) + stream.duration) * stream.time_base
            return end - self._ends.get(stream.index, Fraction(0))
        if not self._container.duration:
            return None
        return Fraction(self._container.duration, av.time_base) - max(self._ends.values())

    def _has_gap(self) -> bool:
        """Return True if the last B-frames of a video of constant rate are missing.

        They are displayed before a frame that the file contains.
        """
        if not self._stream.codec_context.has_b_frames or len(self._times) < 3 * _MAX_B_FRAMES:
            return False
        steps = np.diff(sorted(self._times))
        is_long = steps > 1.5 * np.median(steps)
        return bool(is_long[-_MAX_B_FRAMES:].any() and not is_long[:-_MAX_B_FRAMES].any())

    def _slack(self) -> Fraction:
        rate = self._stream.average_rate
        return max(_SLACK, 2 / rate) if rate else _SLACK
