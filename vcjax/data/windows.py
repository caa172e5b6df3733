"""Windows of long videos: clips of consecutive stretches of time, in one pass over the frames."""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from vcjax.data import clips, video
from vcjax.data.manifest import Manifest, ManifestError


class Windows(NamedTuple):
    """Windows of some videos, in order of video and time."""

    row: Int[np.ndarray, " m"]  # of the manifest
    start: Float[np.ndarray, " m"]  # seconds
    end: Float[np.ndarray, " m"]  # seconds


class Cut(NamedTuple):
    """Length and distance of windows, and the clips in a window.

    A window contains as many clips side by side as fit into it, at least one, at equal distances.
    """

    window: float  # seconds
    step: float  # seconds from the start of a window to the start of the next
    num_frames: int  # of a clip
    stride: int  # frames of the video from one frame of a clip to the next
    side: int  # pixels, height and width of a clip

    @property
    def span(self) -> int:
        """Frames of the video from the first to the last frame of a clip."""
        return (self.num_frames - 1) * self.stride + 1


def listed(manifest: Manifest, cut: Cut) -> Windows:
    """Return the windows of all videos.

    A window starts at every multiple of the step from which a whole window fits; a video that is
    shorter than a window is one window.

    Raises:
        ManifestError: If the frame rate of a video is unknown.
        DecodeError: If a video cannot be opened.
    """
    rows: list[int] = []
    starts: list[float] = []
    ends: list[float] = []
    for row, (path, num_frames) in enumerate(zip(manifest.paths, manifest.num_frames, strict=True)):
        duration = num_frames / _rate(path)
        slack = 0.5 / _rate(path)  # half a frame
        count = max(1, int((duration - cut.window + slack) // cut.step) + 1)
        rows += [row] * count
        starts += [number * cut.step for number in range(count)]
        ends += [min(number * cut.step + cut.window, duration) for number in range(count)]
    return Windows(np.array(rows), np.array(starts), np.array(ends))


def _rate(path: str) -> float:
    """Return the frames per second of a video."""
    if rate := video.probe(path, decode=False).fps:
        return rate
    raise ManifestError(
        f"{path}: its frame rate is unknown, so it has no windows in seconds; pass the original "
        "video file"
    )


def read(
    manifest: Manifest, windows: Windows, cut: Cut
) -> Iterator[tuple[int, UInt8[np.ndarray, "t side side 3"]]]:
    """Yield the number of a window and a clip of it, for all clips in order.

    Each video is decoded once from its beginning. Memory holds the frames of one clip.

    Raises:
        DecodeError: If a video cannot be decoded.
    """
    for row in np.unique(windows.row).tolist():
        path, num_frames = manifest.paths[row], manifest.num_frames[row]
        numbers = np.flatnonzero(windows.row == row).tolist()
        rate = _rate(path)
        starts = [
            (number, first)
            for number in numbers
            for first in clip_starts(
                windows.start[number] * rate, windows.end[number] * rate, num_frames, cut
            )
        ]
        yield from _cut(path, deque(sorted(starts, key=lambda pair: (pair[1], pair[0]))), cut)


def clip_starts(begin: float, end: float, num_frames: int, cut: Cut) -> list[int]:
    """Return the first frames of the clips of a window from frame `begin` to frame `end`.

    If a clip is longer than the window, it has the same center, if the video is long enough.
    """
    count = max(1, int((end - begin + 0.5) // (cut.num_frames * cut.stride)))
    room = end - begin - cut.span
    positions = begin + room * (np.arange(count) + 0.5) / count if count > 1 else [begin + room / 2]
    last = max(0, num_frames - cut.span)
    return [min(max(0, round(position)), last) for position in positions]


def _cut(
    path: str, starts: deque[tuple[int, int]], cut: Cut
) -> Iterator[tuple[int, UInt8[np.ndarray, "t side side 3"]]]:
    """Yield the clips that begin at `starts`, which are pairs of a window and a frame."""
    kept: deque[np.ndarray] = deque(maxlen=cut.span)  # the last frames
    count = 0
    for frame in video.frames(path):
        if not starts:
            return
        count += 1
        kept.append(clips.center_crop(frame[None], cut.side)[0])
        while starts and starts[0][1] + cut.span <= count:
            yield starts.popleft()[0], np.stack(list(kept)[:: cut.stride])
    while starts:  # the video is shorter than a clip: it is repeated from its first frame
        frames = [kept[index % len(kept)] for index in range(0, cut.span, cut.stride)]
        yield starts.popleft()[0], np.stack(frames)
