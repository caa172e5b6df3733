"""Improved dense trajectories, a frame of 320 x 240, beside OpenCV's flow of the same pair.

The peer is one call of calcOpticalFlowFarneback with the same window and neighborhood: half of the
optical flow that a frame takes, and nothing of the tracks, the camera or the descriptors.
"""

import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from vcjax import idt
from vcjax.data import rendered

_NUM_FRAMES = 36


def cases() -> Iterator[dict[str, Any]]:
    """Seconds a frame of one process with one thread, on a rendered video with a moving camera."""
    frames = _frames()
    idt.extract(frames[:3])  # compiled, or loaded from the cache
    start = time.perf_counter()
    found = idt.extract(frames)
    ours = (time.perf_counter() - start) / len(frames)
    peer = float(np.median([_farneback(a, b) for a, b in zip(frames, frames[1:], strict=False)]))
    yield {
        "name": "idt",
        "case": f"320x240, {found.num_rows} rows, {1 / ours:.1f} frames/s",
        "device": "cpu",
        "ours_s": ours,
        "peer": "cv2 Farneback, one call",
        "peer_s": peer,
        "ratio": ours / peer,
    }


def _frames() -> list[UInt8[np.ndarray, "240 320"]]:
    pictures = rendered.pictures("walking", 1, seed=0, row=0)
    large = (cv2.resize(picture, (320, 240)) for picture in islice(pictures, _NUM_FRAMES))
    return [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in large]


def _farneback(first: np.ndarray, second: np.ndarray) -> float:
    cv2.setNumThreads(1)
    flow = np.empty((*first.shape, 2), np.float32)
    start = time.perf_counter()
    cv2.calcOpticalFlowFarneback(
        first, second, flow, 2**-0.5, 6, 10, 2, 7, 1.5, cv2.OPTFLOW_FARNEBACK_GAUSSIAN
    )
    return time.perf_counter() - start
