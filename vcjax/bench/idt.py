"""Improved dense trajectories: seconds per frame in one process with one thread.

The peer is a call of OpenCV's calcOpticalFlowFarneback on the same pair of frames, with the same
window and neighborhood. It does half of the optical flow that a frame requires, and no tracking,
camera motion or descriptors. Further cases are the time of each step and the speedup with two
processes.
"""

import cProfile
import functools
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice, pairwise
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from vcjax import idt
from vcjax.bench import _timing
from vcjax.data import synthetic
from vcjax.idt import camera, flow, pyramid, surf, tracks
from vcjax.runtime import worker_pool

_NUM_FRAMES = 36
_SIZES = ((320, 240), (340, 256))
_NUM_PROCESSES = 2
_STEPS: dict[str, tuple[Callable[..., Any], ...]] = {
    "pyramid": (pyramid.gray,),
    "expansions": (pyramid.smoothed, flow.expand),
    "two flows": (flow.pyramid_flow,),
    "corner matches": (camera.flow_matches,),
    "SURF": (surf.features, surf.match),
    "homography": (camera.homography,),
    "warp": (camera.stabilize,),
    "descriptors": (tracks.describe,),
    "tracking": (tracks.advance,),
    "sampling": (tracks.sample,),
    "rows": (tracks.finish,),
}


def cases() -> Iterator[dict[str, Any]]:
    """Yield seconds per frame on a rendered video with a moving camera."""
    for size in _SIZES:
        seconds = [_farneback(*pair) for pair in pairwise(_frames(size))]
        peer = "cv2 Farneback, one call", float(np.median(seconds))
        for matcher in camera.MATCHERS:
            run = functools.partial(_extract, size, matcher)
            ours = _timing.median_seconds(run, repetitions=3) / _NUM_FRAMES
            text = f"{size[0]}x{size[1]} {matcher}"
            yield _case(f"{text}, {1 / ours:.1f} frames/s", ours, peer)
            for step, share in _shares(run).items():
                yield _case(f"{text}: {step}, {share:.1%}", share * ours)
    one, many = _seconds_in_pool(1), _seconds_in_pool(_NUM_PROCESSES)
    text = f"{_NUM_PROCESSES} processes, {one / many:.2f} times as fast"
    yield _case(text, many, ("1 process", one))


def _case(text: str, ours: float, peer: tuple[str, float] | None = None) -> dict[str, Any]:
    return _timing.case("idt", text, ours, peer=peer) | {"device": "cpu"}


@functools.cache
def _frames(size: tuple[int, int]) -> list[UInt8[np.ndarray, "h w"]]:
    pictures = synthetic.pictures("walking", 1, seed=0, row=0)
    large = (cv2.resize(picture, size) for picture in islice(pictures, _NUM_FRAMES))
    return [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in large]


def _extract(size: tuple[int, int], matcher: str) -> None:
    idt.extract(_frames(size), matcher=matcher)


def _shares(run: Callable[[], None]) -> dict[str, float]:
    """Return the fraction of the time spent in each step, and the remainder."""
    profile = cProfile.Profile(time.process_time)  # CPU time, independent of other load
    profile.runcall(run)
    entries = profile.getstats()
    total = sum(entry.inlinetime for entry in entries)
    seconds = {entry.code: entry.totaltime for entry in entries}
    shares = {
        step: sum(seconds.get(function.__code__, 0) for function in functions) / total
        for step, functions in _STEPS.items()
    }
    return {k: v for k, v in shares.items() if v} | {"other": 1 - sum(shares.values())}


def _seconds_in_pool(num_processes: int) -> float:
    """Return wall seconds per frame of `num_processes` processes with equal work."""
    context = multiprocessing.get_context("forkserver")
    work = [_SIZES[0]] * num_processes, ["flow"] * num_processes
    with ProcessPoolExecutor(num_processes, context, worker_pool.end_with_parent) as pool:
        seconds = _timing.median_seconds(
            lambda: list(pool.map(_extract, *work)), repetitions=3, warm_ups=2
        )
    return seconds / (num_processes * _NUM_FRAMES)


def _farneback(first: np.ndarray, second: np.ndarray) -> float:
    cv2.setNumThreads(1)
    motion = np.empty((*first.shape, 2), np.float32)
    start = time.perf_counter()
    cv2.calcOpticalFlowFarneback(
        first, second, motion, 2**-0.5, 6, 10, 2, 7, 1.5, cv2.OPTFLOW_FARNEBACK_GAUSSIAN
    )
    return time.perf_counter() - start
