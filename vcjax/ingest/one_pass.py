"""One pass over the frames of a video, which serves verification, shard, detector and IDT alike.

The results of a video are staged in a folder of its own until those of its part are complete.
"""

import contextlib
import itertools
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import fisher
from vcjax.data import readers, shards, video
from vcjax.idt import detection, people, storage
from vcjax.ingest.collection import Pictures
from vcjax.ingest.variant import Extraction
from vcjax.runtime import atomic, filesystem

_ABOUT, _FRAMES = "about.json", "frames.array_record"


class Encoding(NamedTuple):
    """Fisher vectors to compute: a fitted model and its extraction."""

    extraction: Extraction
    model: Path
    variant: str  # "paper" or "released"
    key: str  # of the variant and of the content of its model


class Job(NamedTuple):
    """A video to read, and the results to stage in the folder `staging`."""

    video_id: str
    path: str
    version: str  # of the file, as in `variant.version_of`
    staging: Path
    pictures: Pictures | None  # None: the frames are in the collection already
    extractions: tuple[Extraction, ...]
    encodings: tuple[Encoding, ...] = ()
    trajectories: Path | None = None  # folder that keeps trajectory files
    whole: bool = False  # keep the trajectories in `staging`, for a model that is not fitted yet

    @property
    def video(self) -> Path:
        """File of the video, whose size orders the jobs."""
        return filesystem.path_of(self.path)


class Staged:
    """Results of one video in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def about(self) -> dict[str, Any]:
        """Description of the pass, or {} if it is not complete.

        It has the "version" of the file, "num_frames", "fps", the encoding of the frames in
        "pictures", and for each extraction by its key the "num_rows" and, in "sources", the
        version of the inputs.
        """
        try:
            return dict(json.loads((self.folder / _ABOUT).read_text("utf-8")))
        except (FileNotFoundError, ValueError):
            return {}

    @property
    def frames(self) -> Path:
        """Shard of the frames, which exists if they were read."""
        return self.folder / _FRAMES

    def boxes(self, extraction: Extraction) -> Path:
        """Box file of the detector of `extraction`."""
        return self.folder / f"{extraction.key}.bb"

    def trajectories(self, extraction: Extraction) -> Path:
        """Trajectory file of `extraction`."""
        return self.folder / f"{extraction.key}.trajectories"

    def vector(self, key: str) -> Path:
        """File of the Fisher vector of an encoding."""
        return self.folder / f"{key}.npy"

    def serves(self, job: Job) -> bool:
        """Return True if the pass over the frames that `job` asks for is complete."""
        about = self.about
        return about.get("version") == job.version and (
            (job.pictures is None or about["pictures"] == list(job.pictures))
            and all(self._has(extraction, job, about) for extraction in job.extractions)
        )

    def _has(self, extraction: Extraction, job: Job, about: dict[str, Any]) -> bool:
        """Return True if the trajectories, or all vectors that are made from them, are staged."""
        if about["sources"].get(extraction.key) != extraction.version(job.video_id, job.version):
            return False
        keys = [e.key for e in job.encodings if e.extraction == extraction]
        is_encoded = not job.whole and all(self.vector(key).exists() for key in keys)
        return is_encoded or self.trajectories(extraction).exists()


def stage(job: Job) -> int:
    """Stage the results of a video; return the number of trajectories of its first extraction.

    Raises:
        DecodeError: If the video is damaged.
        ValueError: If frames differ in size, or boxes of people are missing.
    """
    staged = Staged(job.staging)
    if not staged.serves(job):
        _read(job)
    for encoding in job.encodings:
        if not staged.vector(encoding.key).exists():
            _encode(staged, job, encoding)
    if not job.whole:
        for extraction in job.extractions:
            _keep_or_remove(staged.trajectories(extraction), extraction, job)
    return next(iter(staged.about["num_rows"].values()), 0)


def _read(job: Job) -> None:
    """Decode the video once, and stage all that is made from its frames."""
    from vcjax.idt import extraction as idt

    folder = job.staging.with_name(f"{job.staging.name}.{os.getpid()}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    staged = Staged(folder)
    about: dict[str, Any] = {"version": job.version, "pictures": job.pictures}
    about |= {"fps": round(video.probe(job.path, decode=False).fps, 3)}
    boxes: dict[Extraction, list[people.Boxes]] = {e: [] for e in job.extractions if e.detector}
    frames = _frames(job, staged, about, boxes)
    try:
        with contextlib.ExitStack() as stack:
            writers = [
                stack.enter_context(storage.writer(staged.trajectories(extraction)))
                for extraction in job.extractions
            ]
            rows = [
                idt.extract_frames(
                    copy,
                    people=_people(job, extraction, boxes),
                    matcher=extraction.matcher,
                    settings=extraction.settings,
                )
                for extraction, copy in zip(
                    job.extractions, itertools.tee(frames, len(job.extractions)), strict=True
                )
            ]
            # in lockstep, so that one frame is in memory for all of them
            for of_frame in zip(*rows, strict=True):
                for writer, new in zip(writers, of_frame, strict=True):
                    writer.append(new)
            for _ in frames:  # without any extraction
                pass
        about["sources"] = {e.key: e.version(job.video_id, job.version) for e in job.extractions}
        about["num_rows"] = {
            e.key: w.num_rows for e, w in zip(job.extractions, writers, strict=True)
        }
    except readers.DecodeError:
        raise
    except ValueError as error:
        raise ValueError(f"{job.path}: {error}") from error
    finally:
        if "num_rows" not in about:
            shutil.rmtree(folder)
    with atomic.atomic_write(folder / _ABOUT) as file:
        file.write(json.dumps(about).encode())
    shutil.rmtree(job.staging, ignore_errors=True)
    with contextlib.suppress(OSError):  # another machine has staged the same video meanwhile
        os.rename(folder, job.staging)


def _frames(
    job: Job, staged: Staged, about: dict[str, Any], boxes: Mapping[Extraction, list[people.Boxes]]
) -> Iterator[video.Frame]:
    """Yield the frames; encode each and detect the people on it first."""
    settings = {e: detection.Settings(e.detector) for e in boxes}
    with contextlib.ExitStack() as stack:
        lines = {e: stack.enter_context(staged.boxes(e).open("w")) for e in boxes}
        encoder = job.pictures and stack.enter_context(
            shards.Writer(staged.frames, job.pictures.codec)
        )
        count = 0
        for frame in video.frames(job.path):
            if encoder and job.pictures:
                encoder.append(shards.reduce(frame, job.pictures.side))
            for extraction, chosen in settings.items():
                line = detection.line(count, detection.detector(chosen)(frame), chosen)
                lines[extraction].write(line)
                boxes[extraction].append(people.parse_line(line))
            count += 1
            yield frame
    about |= {"num_frames": count}


def _people(
    job: Job, extraction: Extraction, boxes: Mapping[Extraction, list[people.Boxes]]
) -> Path | list[people.Boxes] | None:
    if extraction.detector:
        return boxes[extraction]
    return people.path_of(Path(extraction.people), job.video_id) if extraction.people else None


def _encode(staged: Staged, job: Job, encoding: Encoding) -> None:
    """Write the Fisher vector of one variant."""
    if multiprocessing.parent_process():
        jax.config.update("jax_platforms", "cpu")  # or every process would reserve GPU memory
    path = staged.trajectories(encoding.extraction)
    pairs = [(job.video_id, lambda: (rows.features for rows in storage.read_blocks(path)))]
    model = _model(encoding.model, encoding.key)
    _, vectors, _ = model.encode_collection(pairs, variant=encoding.variant)
    with atomic.atomic_write(staged.vector(encoding.key)) as file:
        np.save(file, vectors[0], allow_pickle=False)


def _keep_or_remove(path: Path, extraction: Extraction, job: Job) -> None:
    if job.trajectories and path.exists():
        target = storage.path_of(job.trajectories / extraction.key, job.video_id)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)
    path.unlink(missing_ok=True)


@lru_cache(maxsize=4)  # models per process, for all its videos
def _model(path: Path, key: str) -> fisher.Model:
    return fisher.Model.load(path)
