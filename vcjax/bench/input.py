"""Training clips of 16 frames at 112 pixels: seconds per clip, with crop, resize and batching.

Sources are plain h264 files of ten seconds at 340x256, prepared shards, and single JPEG frames read
by PIL as in the authors' code (the peer). With `VCJAX_BENCH_CLIPS=100000`, the benchmark instead
streams that many clips from shards and reports the resident memory of all processes on the way.
"""

import functools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import av
import cv2
import grain
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vcjax.bench import _timing
from vcjax.data import clips, manifest, prepare, shards, synthetic, verify
from vcjax.data.manifest import Manifest

_NUM_VIDEOS = 12
_LISTED = 1000  # repetitions of each video in the manifest
_NUM_FRAMES = 300  # ten seconds
_SIZE = (340, 256)
_BATCH = 8
_ROUNDS = 5
_NUM_BATCHES = 60  # that the threads or worker processes read while they are timed
_CLIPS: dict[str, Any] = dict(
    num_frames=16, side=112, scales=(1.0, 2**-0.25, 2**-0.5), batch_size=_BATCH, seed=0
)
_MEMORY_AT = (0.01, 0.1, 0.25, 0.5, 1.0)  # fractions of the clips


def cases() -> Iterator[dict[str, Any]]:
    """Yield median seconds per clip of each source, timed in turns; the peer is PIL."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if num_clips := int(os.environ.get("VCJAX_BENCH_CLIPS", 0)):
            yield from _memory(root, num_clips)
            return
        runs = _runs(root)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(_ROUNDS):
            for name, run in runs.items():
                seconds[name].append(_seconds_a_clip(run))
        cpu = {name: float(np.median(values)) for name, values in seconds.items()}
        peer = "frames by PIL"
        for name in runs:
            text = f"{name}, {1 / cpu[name]:.0f} clips/s/core"
            yield _case(text, cpu[name], (peer, cpu[peer]))
        dataset = _dataset(manifest.read(root / "jpeg"))
        for num_workers in (0, 1, 2):
            rate = _grain_rate(dataset, _NUM_BATCHES, num_workers=num_workers, num_threads=2)
            yield _case(f"shards jpeg, {num_workers} workers, {rate:.0f} clips/s", 1 / rate)
        rate = _rate_of_hosts(root / "jpeg", 2)
        yield _case(f"shards jpeg, 2 hosts of one thread, {rate:.0f} clips/s each", 1 / rate)


def _case(text: str, seconds: float, peer: tuple[str, float] | None = None) -> dict[str, Any]:
    return _timing.case("input", text, seconds, peer=peer) | {"device": "cpu"}


def _runs(root: Path) -> dict[str, Callable[[], Any]]:
    """Return a function per source that makes its next batch in this thread."""
    _write_videos(root / "plain", _NUM_FRAMES, _SIZE)
    read = manifest.read(root / "plain")
    plain = verify.verify(read, on_error="error", decode=False, num_workers=1)[0]
    sources = {"plain h264": plain}
    for codec in shards.CODECS:
        sources[f"shards {codec}"] = _prepared(read, root / codec, codec)
    runs = {name: _next_batch(_dataset(source)) for name, source in sources.items()}
    _write_frames(plain, root / "frames")
    runs["frames by PIL"] = functools.partial(_pil_batch, root / "frames", np.random.default_rng(0))
    return runs


def _prepared(read: Manifest, out: Path, codec: str, side: int = 128) -> Manifest:
    how: dict[str, Any] = dict(num_workers=1, on_error="error")
    return prepare.prepare(read, out, side=side, codec=codec, **how)[0]


def _dataset(source: Manifest) -> grain.MapDataset:
    # grain's shuffle costs milliseconds per clip for a dozen videos, almost nothing for thousands
    many = source.take(list(range(len(source))) * _LISTED)
    return clips.training_clips(many, **_CLIPS, num_epochs=100)


def _next_batch(dataset: grain.MapDataset) -> Callable[[], Any]:
    steps = iter(range(len(dataset)))
    return lambda: dataset[next(steps)]


def _seconds_a_clip(run: Callable[[], Any]) -> float:
    """Return CPU seconds of this process per clip, independent of other load."""
    run()
    begin = time.process_time()
    for _ in range(2):
        run()
    return (time.process_time() - begin) / (2 * _BATCH)


def _grain_rate(dataset: grain.MapDataset, num_batches: int, **readers: int) -> float:
    """Return clips per second of wall time once the workers are running."""
    batches = clips.iterate(dataset, **readers)
    list(islice(batches, num_batches // 3))
    begin = time.perf_counter()
    list(islice(batches, num_batches))
    return num_batches * _BATCH / (time.perf_counter() - begin)


def _rate_of_hosts(shards: Path, count: int) -> float:
    """Return the clips per second of the slowest of `count` processes that share all batches.

    As in training on several hosts, each process reads every `count`-th part of the same order.
    """
    read = functools.partial(_rate_of_host, shards, count, _NUM_BATCHES)
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        return min(pool.map(read, range(count)))


def _rate_of_host(shards: Path, count: int, num_batches: int, index: int) -> float:
    parts = _dataset(manifest.read(shards))[index::count]
    return _grain_rate(parts, num_batches, num_workers=0, num_threads=1)


def _memory(root: Path, num_clips: int) -> Iterator[dict[str, Any]]:
    import psutil

    _write_videos(root / "plain", 40, (64, 64))
    source = _prepared(manifest.read(root / "plain"), root / "jpeg", "jpeg", side=64)
    batches = clips.iterate(_dataset(source), num_workers=2, num_threads=1)
    marks = {round(share * num_clips / _BATCH) for share in _MEMORY_AT}
    this, begin = psutil.Process(), time.perf_counter()
    for done, _ in enumerate(islice(batches, max(marks)), start=1):
        if done in marks:
            processes = [this, *this.children(recursive=True)]
            sizes = ", ".join(f"{p.memory_info().rss / 2**20:.0f}" for p in processes)
            seconds = (time.perf_counter() - begin) / (done * _BATCH)
            yield _case(f"{done * _BATCH} clips: MiB {sizes}", seconds)


def _write_videos(folder: Path, num_frames: int, size: tuple[int, int]) -> None:
    folder.mkdir()
    motions = cycle(synthetic.MOTIONS)
    for row, motion in zip(range(_NUM_VIDEOS), motions, strict=False):
        pictures = list(synthetic.pictures(motion, row % 4, seed=0, row=row))
        with av.open(folder / f"{row:02d}.mp4", "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(30))
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            for picture in islice(cycle(pictures), num_frames):
                large = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(large, format="rgb24")))
            container.mux(stream.encode())


def _write_frames(plain: Manifest, folder: Path) -> None:
    from vcjax.data import video

    for path in plain.paths:
        target = folder / Path(path).stem
        target.mkdir(parents=True)
        for index, frame in enumerate(video.frames(path)):
            Image.fromarray(frame).save(target / f"image_{index:05d}.jpg", quality=90)


def _pil_batch(folder: Path, generator: np.random.Generator) -> UInt8[np.ndarray, "b t s s 3"]:
    return np.stack([_pil_clip(folder, generator) for _ in range(_BATCH)])


def _pil_clip(folder: Path, generator: np.random.Generator) -> UInt8[np.ndarray, "t s s 3"]:
    """Read, crop and resize every frame by PIL from a file of its own (Hara et al. 2018)."""
    row = generator.integers(_NUM_VIDEOS)
    start = generator.integers(_NUM_FRAMES - _CLIPS["num_frames"] + 1)
    crop = round(_SIZE[1] * _CLIPS["scales"][generator.integers(len(_CLIPS["scales"]))])
    left, top = generator.integers(_SIZE[0] - crop + 1), generator.integers(_SIZE[1] - crop + 1)
    side, frames = _CLIPS["side"], []
    for index in range(start, start + _CLIPS["num_frames"]):
        with (folder / f"{row:02d}" / f"image_{index:05d}.jpg").open("rb") as file:
            picture = Image.open(file).convert("RGB")
        picture = picture.crop((left, top, left + crop, top + crop))
        frames.append(np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR)))
    return np.stack(frames)
