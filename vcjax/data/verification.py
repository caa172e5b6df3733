"""Every video opened once before anything depends on it, in parallel."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from vcjax import progress
from vcjax.data import video
from vcjax.idt import workers


def probe_all(paths: Sequence[str], *, decode: bool, num_workers: int) -> list[int | str]:
    """Number of frames of each video, or the reason why it cannot be read."""
    probe = partial(_probe, decode=decode)
    bar = progress.bar(desc="verify", unit="video", total=len(paths))
    if num_workers <= 1 or len(paths) < 8:
        results = []
        for path in paths:
            results.append(probe(path))
            bar.update()
    else:
        context = multiprocessing.get_context("forkserver")
        with ProcessPoolExecutor(num_workers, context, workers.end_with_parent) as pool:
            results = []
            for result in pool.map(probe, paths, chunksize=4):
                results.append(result)
                bar.update()
    bar.close()
    return results


def _probe(path: str, *, decode: bool) -> int | str:
    try:
        return video.probe(path, decode=decode).num_frames
    except video.DecodeError as error:
        return str(error).removeprefix(f"{path}: ")
