"""Length, frames and clips of a video: of a file, or stored in a shard or tfds record."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vcjax.data import readers, shards
from vcjax.data.readers import DecodeError as DecodeError
from vcjax.data.readers import Frame, VideoInfo, open_video
from vcjax.runtime import checks


@checks.arguments
def probe(path: str | Path, *, decode: bool) -> VideoInfo:
    """Return the length, size and rate of the video at `path`.

    With `decode`, or if the file does not declare its length, every frame is decoded and counted.

    Raises:
      DecodeError: if the file cannot be opened. While decoding also in the cases of `frames`.
    """
    return open_video(str(path)).probe(decode=decode)


@checks.arguments
def declared_size(path: str | Path) -> tuple[int, int]:
    """Return height and width in pixels that the header of a video file states.

    Raises:
      DecodeError: if the file cannot be opened.
    """
    return readers.declared_size(str(path))


@checks.arguments
def frames(path: str | Path) -> Iterator[Frame]:
    """Yield every frame of the video in order, RGB in [0, 255].

    Only one frame, or one chunk of a stored video, is in memory at a time.

    Raises:
      DecodeError: if a frame is damaged or differs in size from the frames before it, if there is
        no frame, or at the end if the file is truncated.
    """
    yield from open_video(str(path)).frames()


@checks.arguments
def frames_at(path: str | Path, indices: Sequence[int]) -> Iterator[tuple[int, Frame]]:
    """Yield each index of ascending `indices` with its frame, RGB in [0, 255].

    A file is decoded up to the last of them, in constant memory; of a stored video only these
    frames are decoded. Indices past the end are left out.

    Raises:
      DecodeError: in the cases of `frames`.
    """
    if entry := shards.parse(str(path)):
        inside = [index for index in indices if index < entry.num_frames]
        yield from zip(inside, open_video(str(path)).read(inside), strict=True)
        return
    for index, frame in enumerate(islice(frames(path), indices[-1] + 1)):
        if index in indices:
            yield index, frame


@checks.arguments
def clip(
    path: str | Path, start: int, num_frames: int, *, stride: int = 1
) -> UInt8[np.ndarray, "t h w 3"]:
    """Return `num_frames` frames of the video from frame `start` on, RGB in [0, 255].

    The clip consists of every `stride`-th frame; a video that ends early is repeated from its first
    frame. Decoding begins at the last key frame before `start`, if the file can be sought.

    Raises:
      DecodeError: if the video cannot be decoded.
    """
    checks.count("num_frames", num_frames)
    checks.count("stride", stride)
    indices = range(start, start + num_frames * stride, stride)
    return np.stack(open_video(str(path)).read(indices))
