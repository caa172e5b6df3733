"""Making and extending a collection: plan, fit of the models, encoding of every video, parts.

Only videos that are new, changed, or without a vector of some variant are read. The trajectories of
the videos that a model is fitted to are staged until the model exists; every other video goes from
its frames to its Fisher vectors in one process, and its trajectories are removed at once. `plan`
lists missing results, and `parts` writes the parts.
"""

import contextlib
import fcntl
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

import fisher
from vcjax.data import manifest as manifests
from vcjax.data import shards, splits, verify, video
from vcjax.data.manifest import Manifest, ManifestError, Problem
from vcjax.idt import detection, fisher_vectors, storage
from vcjax.ingest import one_pass, parts
from vcjax.ingest.collection import Collection, Pictures
from vcjax.ingest.one_pass import Job
from vcjax.ingest.plan import Options, Plan
from vcjax.ingest.variant import Variant
from vcjax.runtime import progress, worker_pool

T = TypeVar("T")

log = logging.getLogger(__name__)

_GROUP_PARTS = 64  # parts whose videos are read by one pool of processes
_OTHERS = 64  # drawn videos of other machines that are read before their models are looked for
_MAX_VANISHED = 0.5
_TRAJECTORY_BYTES = 0.84  # per pixel of a video, measured on the clips of 320 x 240 of JHMDB
_SAMPLE = 20  # videos whose size is read to estimate the space of trajectories


def check_detectors(variants: Sequence[Variant]) -> None:
    """Raise ValueError, which names the alternatives, if a detector of people cannot be used."""
    for name in {v.extraction.detector for v in variants} - {""}:
        try:
            detection.detector(detection.Settings(name))
        except (ValueError, OSError) as error:
            raise ValueError(
                f"{error}; --config.idt.detector=none computes trajectories without detections "
                "of people (Table 5), and --config.idt.people=FOLDER reads boxes of your own"
            ) from error


def ingest(
    videos: Manifest,
    root: Any,
    pictures: Pictures,
    variants: Sequence[Variant],
    options: Options,
    *,
    training: Sequence[str],
    max_changed_share: float | None = None,
) -> Collection:
    """Bring the collection in `root` up to date with `videos`, and return it.

    Frames of another encoding are replaced. The shards that they were in are removed by the next
    call, since a run may be reading them.

    Args:
        videos: All videos of the collection; others are removed from it.
        root: Local or remote folder.
        pictures: Encoding of the frames.
        variants: Fisher vectors to compute, in one pass over the videos that lack any of them.
        options: Execution.
        training: Ids of the training videos, which models with the `fit_split` "train" are fitted
            to.
        max_changed_share: Fraction of the videos that a model was fitted to that may change before
            it is fitted again; None keeps every model, and refuses `videos` without most of the
            videos of the collection, as is right for a collection that several runs share.

    Raises:
        ManifestError: If videos cannot be used and `on_error` is "error" (raised after all other
            videos were read), or if most of the videos of a shared collection are missing.
    """
    if options.on_error == "error":
        verify.check_files(videos)
    collection = Collection.create(root, pictures, len(videos))
    work = _Work(collection, videos, tuple(variants), options)
    number, total = options.shard
    with _only_one(work.staging / f"shard-{number + 1}-of-{total}.lock"):
        if max_changed_share is None:
            work.check_vanished()
        work.remove_replaced()
        work.fit(training, max_changed_share)
        work.encode()
        work.finish()
    return collection


class _Work(Plan):
    """The work of one machine on a collection."""

    def check_vanished(self) -> None:
        """Refuse a listing of other videos, which would empty the collection."""
        records = map(self.collection.record, self.parts)
        stored = {e["video_id"] for record in records for e in record.get("videos", ())}
        vanished = sorted(stored - self.paths.keys())
        if len(vanished) > _MAX_VANISHED * len(stored):
            raise ManifestError(
                f"{self.collection.root}: {len(vanished)} of its {len(stored)} videos, such as "
                f"{vanished[0]}, are not among the {len(self.videos)} videos given, and would be "
                "removed; pass all videos of the collection, or choose another folder"
            )
        if vanished:
            log.info("ingest: %d videos no longer exist and are removed", len(vanished))

    def remove_replaced(self) -> None:
        """Remove the shards of own parts that neither the index nor a description refers to."""
        needed = {self.collection.record(part).get("shard") for part in self.parts}
        if (self.collection.root / manifests.INDEX).is_file():
            paths = self.collection.manifest().paths
            needed |= {shards.file_of(path).rpartition("/")[2] for path in paths}
        folder = self.collection.root / "parts"
        for path in folder.glob("*.array_record") if folder.is_dir() else ():
            if path.name not in needed and self.is_own(int(path.name.partition("-")[0])):
                path.unlink()

    def run(self, jobs: Sequence[Job], bar: Any, *, in_order: bool = False) -> Iterator[Job]:
        """Run the jobs in worker processes, collect the problems, and yield each finished job."""
        for result in worker_pool.run_all(
            jobs, one_pass.stage, self.options.num_workers, in_order=in_order
        ):
            job = result.job
            if result.problem:
                self.problems[job.video_id] = result.problem.removeprefix(f"{job.path}: ")
            bar.update()
            yield job

    def fit(self, training: Sequence[str], max_changed_share: float | None) -> None:
        """Fit and write the models that are missing, to rows of videos that are drawn at random.

        Raises:
            ManifestError: If a drawn video cannot be used and `on_error` is "error", because the
                model would depend on it.
        """
        ids = {
            v.key: training if v.fisher["fit_split"] == "train" else self.videos.video_ids
            for v in self.variants
        }

        def unfitted() -> list[Variant]:
            return [
                v for v in self.variants if not self.is_fitted(v, ids[v.key], max_changed_share)
            ]

        missing = unfitted()
        self.outdated = {v.key for v in missing}
        drawn = {
            v.key: fisher.sample_items(ids[v.key], v.fisher["num_videos"], v.seed) for v in missing
        }
        all_drawn = {video_id for video_ids in drawn.values() for video_id in video_ids}
        needs = {
            video_id: need
            for part in (self.parts if missing else ())
            for video_id, need in self.needs(part).items()
            if video_id in all_drawn
        }
        jobs = [self.job(video_id, need, fitted=False) for video_id, need in needs.items()]
        is_own = {i: self.is_own(self.collection.part_of(i)) for i in needs}
        own = [job for job in jobs if is_own[job.video_id]]
        others = [job for job in jobs if not is_own[job.video_id]]
        if jobs:
            log.info(
                "ingest: reading %d drawn videos, whose trajectories take about %s in %s until "
                "the mixture is fitted",
                len(jobs),
                _size(_trajectory_bytes(jobs)),
                self.staging,
            )
        with progress.bar(desc="ingest: drawn videos", unit="video", total=len(jobs)) as bar:
            list(self.run(own, bar))
            # the videos of other machines that these have not staged by now
            for some in _batches(others, _OTHERS):
                if not unfitted():
                    break
                list(self.run(some, bar))
        verify.check_problems(self.listed_problems(), len(self.videos), self.options.on_error)
        for variant in missing:
            with _only_one(self.staging / f"{variant.key}.lock"):
                if not self.is_fitted(variant, ids[variant.key], max_changed_share):
                    usable = [i for i in drawn[variant.key] if i in needs.keys() - self.problems]
                    self.fit_one(variant, usable, ids[variant.key])
        self.outdated = set()

    def is_fitted(
        self, variant: Variant, ids: Sequence[str], max_changed_share: float | None
    ) -> bool:
        """Return True if a variant has a model, which was fitted to much the same videos."""
        if not self.collection.model_digest(variant):
            return False
        before = self.collection.fitted_to(variant)
        return max_changed_share is None or splits.mostly_unchanged(
            before, ids, max_share=max_changed_share
        )

    def fit_one(self, variant: Variant, video_ids: Sequence[str], ids: Sequence[str]) -> None:
        """Fit the model of one variant to rows of staged videos, drawn from `ids`; write it."""

        def features(video_id: str) -> Float[np.ndarray, "_ d"]:
            path = self.staged(video_id).trajectories(variant.extraction)
            return storage.read(path).features

        settings = ConfigDict(dict(variant.fisher))
        model = fisher_vectors.fit(video_ids, features, settings, seed=variant.seed)
        self.collection.write_model(variant, model, ids)

    def encode(self) -> None:
        """Read all own videos that lack a result, and write each part when it is complete."""
        own = [part for part in self.parts if self.is_own(part)]
        needs = {part: self.needs(part) for part in own if self.is_stale(part)}
        total = sum(map(len, needs.values()))
        shared = f" of shard {self.options.shard.number + 1}" * (self.options.shard.total > 1)
        log.info(
            "ingest: %d of %d videos%s to read, in %d of %d parts",
            total, sum(len(self.parts[part]) for part in own), shared, len(needs), len(own),
        )  # fmt: skip
        if self.options.trajectories:
            every = [
                self.job(i, n, fitted=True) for some in needs.values() for i, n in some.items()
            ]
            size = _size(_trajectory_bytes(every))
            log.info("ingest: trajectories take about %s in %s", size, self.options.trajectories)
        with progress.bar(desc="ingest", unit="video", total=total) as bar:
            for group in _batches(list(needs), _GROUP_PARTS):
                jobs = [
                    self.job(video_id, need, fitted=True)
                    for part in group
                    for video_id, need in needs[part].items()
                    if video_id not in self.problems
                ]
                waiting = dict.fromkeys(group, 0)
                for job in jobs:
                    waiting[self.collection.part_of(job.video_id)] += 1
                for part in group:
                    if not waiting[part]:
                        parts.write(self, part)
                for job in self.run(jobs, bar, in_order=True):
                    part = self.collection.part_of(job.video_id)
                    waiting[part] -= 1
                    if not waiting[part]:
                        parts.write(self, part)

    def listed_problems(self) -> list[Problem]:
        """Return the problems of this run in the order of the videos."""
        return [
            Problem(i, path, self.problems[i])
            for i, path in self.paths.items()
            if i in self.problems
        ]

    def finish(self) -> None:
        """Write the index if all parts are complete, and remove shards that it does not need.

        Raises:
            ManifestError: If videos cannot be used and `on_error` is "error".
        """
        records = {part: self.collection.record(part) for part in self.parts}
        unfinished = [p for p in self.parts if not self.is_own(p) and self.is_stale(p)]
        if unfinished:
            verify.check_problems(self.listed_problems(), len(self.videos), self.options.on_error)
            log.info(
                "ingest: %d of %d parts are not written yet by other machines; the last one "
                "to finish writes the index",
                len(unfinished),
                len(self.parts),
            )
            return
        entries = {e["video_id"]: e for record in records.values() for e in record["videos"]}
        ordered = [entries[video_id] for video_id in self.videos.video_ids]
        problems = [
            Problem(i, self.paths[i], e["problem"]) for i, e in entries.items() if e["problem"]
        ]
        verify.check_problems(sorted(problems), len(self.videos), self.options.on_error)
        self.collection.write_index(self.videos, ordered)
        self.remove_staging()

    def remove_staging(self) -> None:
        """Remove the folder of unfinished work, unless another machine still uses it."""
        own = f"shard-{self.options.shard.number + 1}-of-{self.options.shard.total}.lock"
        with contextlib.ExitStack() as stack, contextlib.suppress(BlockingIOError):
            for path in self.staging.glob("shard-*.lock"):
                if path.name != own:
                    file = stack.enter_context(path.open("a"))
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(self.staging, ignore_errors=True)


def _trajectory_bytes(jobs: Sequence[Job]) -> float:
    """Return the approximate size of the trajectories of all jobs, extrapolated from a few."""
    sizes = []
    for job in jobs[:: len(jobs) // _SAMPLE or 1]:
        with contextlib.suppress(video.DecodeError):
            info = video.probe(job.path, decode=False)
            pixels = info.height * info.width
            for extraction in job.extractions:
                longest = max(info.height, info.width)
                scale = min(1.0, extraction.max_side / longest) if extraction.max_side else 1.0
                sizes.append(info.num_frames * pixels * scale**2 * _TRAJECTORY_BYTES)
    return float(np.mean(sizes)) * len(jobs) if sizes else 0.0


def _batches(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (values[i : i + size] for i in range(0, len(values), size))


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; wait while another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for another process, which holds %s", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
