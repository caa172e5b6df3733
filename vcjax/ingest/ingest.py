"""Making and extending a collection: plan, fit of the models, encoding of every video, parts.

Only videos that are new, changed, or without a vector of some variant are read. The trajectories of
the videos that a model is fitted to are staged until the model exists; every other video goes from
its frames to its Fisher vectors in one process, and its trajectories are removed at once.
"""

import contextlib
import fcntl
import hashlib
import logging
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

import fisher
from vcjax.data import manifest as manifests
from vcjax.data import shards, splits, verify, video
from vcjax.data.manifest import Manifest, ManifestError, Problem
from vcjax.idt import detection, fisher_vectors, storage
from vcjax.ingest import one_pass
from vcjax.ingest.collection import Collection, PartVectors, Pictures
from vcjax.ingest.one_pass import Encoding, Job, Staged
from vcjax.ingest.variant import Extraction, Variant, version_of
from vcjax.runtime import filesystem, progress, worker_pool

T = TypeVar("T")

log = logging.getLogger(__name__)

_GROUP_PARTS = 64  # parts whose videos are read by one pool of processes
_OTHERS = 64  # drawn videos of other machines that are read before their models are looked for
_MAX_VANISHED = 0.5
_TRAJECTORY_BYTES = 0.84  # per pixel of a video, measured on the clips of 320 x 240 of JHMDB
_SAMPLE = 20  # videos whose size is read to estimate the space of trajectories


class Shard(NamedTuple):
    """Share of one machine, `number` (from 0) of `total`, of the parts of a collection."""

    number: int = 0
    total: int = 1


class Options(NamedTuple):
    """Execution of an ingest, which does not change its result."""

    num_workers: int
    on_error: str = "error"
    shard: Shard = Shard()
    trajectories: Path | None = None  # folder that keeps trajectory files
    staging: Path | None = None  # local folder for unfinished work; None: in the collection


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


class _Need(NamedTuple):
    """Results that a video lacks."""

    frames: bool
    variants: tuple[Variant, ...]


class _Work:
    """The work of one machine on a collection."""

    def __init__(
        self,
        collection: Collection,
        videos: Manifest,
        variants: tuple[Variant, ...],
        options: Options,
    ) -> None:
        self.collection, self.videos, self.variants = collection, videos, variants
        self.options = options
        self.staging = _staging(collection.root, options.staging)
        self.paths = dict(zip(videos.video_ids, videos.paths, strict=True))
        self.versions = {i: version_of(path) for i, path in self.paths.items()}
        self.parts: dict[int, list[str]] = {part: [] for part in range(collection.num_parts)}
        for video_id in videos.video_ids:
            self.parts[collection.part_of(video_id)].append(video_id)
        self.outdated: set[str] = set()  # keys of the variants whose model has to be fitted
        self.problems: dict[str, str] = {}  # of this run, by video id

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

    def staged(self, video_id: str) -> Staged:
        """Return the staged results of a video."""
        return Staged(self.staging / hashlib.sha256(video_id.encode()).hexdigest()[:24])

    def attempt(self, video_id: str) -> list[str]:
        """Return the versions of all inputs of a video, whose change may mend a problem."""
        version = self.versions[video_id]
        extractions = dict.fromkeys(v.extraction for v in self.variants)
        return sorted({version, *(e.version(video_id, version) for e in extractions)})

    def entries(self, part: int) -> dict[str, dict[str, Any]]:
        """Return the entries of a part's videos whose inputs are unchanged, by video id."""
        record = self.collection.record(part)
        if record.get("pictures") != list(self.collection.pictures):
            return {}
        if filesystem.size_of(self.collection.shard(record)) != record["size"]:
            return {}
        return {
            entry["video_id"]: entry
            for entry in record["videos"]
            if entry["video_id"] in self.versions
            and entry["version"] == self.versions[entry["video_id"]]
            and not (entry["problem"] and entry["attempt"] != self.attempt(entry["video_id"]))
        }

    def needs(self, part: int) -> dict[str, _Need]:
        """Return the videos of a part that have to be read, and the results that each lacks."""
        entries = self.entries(part)
        encoded = {}
        for v in self.variants:
            stored = self.collection.read_vectors(v, part)
            keys = set(zip(stored.video_ids, stored.versions, strict=True))
            encoded[v.key] = set() if v.key in self.outdated else keys
        needs = {}
        for video_id in self.parts[part]:
            entry = entries.get(video_id)
            if entry and entry["problem"]:
                continue  # it fails again unless its files change
            lacking = tuple(
                v
                for v in self.variants
                if (video_id, self.source(v, video_id)) not in encoded[v.key]
            )
            if lacking or entry is None:
                needs[video_id] = _Need(entry is None, lacking)
        return needs

    def source(self, variant: Variant, video_id: str) -> str:
        """Return the version of the inputs of a vector."""
        return variant.extraction.version(video_id, self.versions[video_id])

    def is_stale(self, part: int) -> bool:
        """Return True if a part lacks results, or holds videos that no longer exist."""
        record = self.collection.record(part)
        ids = [entry["video_id"] for entry in record.get("videos", ())]
        return not record or ids != self.parts[part] or bool(self.needs(part))

    def job(self, video_id: str, need: _Need, *, fitted: bool) -> Job:
        """Return the job that stages what a video lacks, with vectors if the models are fitted."""
        encodings = tuple(
            Encoding(
                v.extraction,
                filesystem.cached(str(self.collection.model_path(v))),
                v.fisher["variant"],
                self.encoding_key(v),
            )
            for v in (need.variants if fitted else ())
        )
        return Job(
            video_id,
            self.paths[video_id],
            self.versions[video_id],
            self.staged(video_id).folder,
            self.collection.pictures if need.frames else None,
            tuple(dict.fromkeys(v.extraction for v in need.variants)),
            encodings,
            self.options.trajectories,
            whole=not fitted,
        )

    def encoding_key(self, variant: Variant) -> str:
        """Return the key of the vectors of a variant by its present model."""
        return f"{variant.key}-{self.collection.model_digest(variant)[:12]}"

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

    def is_own(self, part: int) -> bool:
        """Return True if this machine writes `part`."""
        return part % self.options.shard.total == self.options.shard.number

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
                        self.write_part(part)
                for job in self.run(jobs, bar, in_order=True):
                    part = self.collection.part_of(job.video_id)
                    waiting[part] -= 1
                    if not waiting[part]:
                        self.write_part(part)

    def write_part(self, part: int) -> None:
        """Write vectors, boxes, shard and description of a part from new and old results."""
        old, staged = self.entries(part), {i: self.staged(i) for i in self.parts[part]}
        for variant in self.variants:
            self.write_vectors(variant, part, staged)
        for extraction in dict.fromkeys(v.extraction for v in self.variants):
            if extraction.detector:
                self.write_boxes(extraction, part, staged)
        self.collection.write_record(part, self.write_shard(part, old, staged))
        for results in staged.values():
            shutil.rmtree(results.folder, ignore_errors=True)

    def write_shard(
        self, part: int, old: Mapping[str, dict[str, Any]], staged: Mapping[str, Staged]
    ) -> dict[str, Any]:
        """Write the frames of a part to a new shard, and return the description of the part."""
        record, pictures = self.collection.record(part), self.collection.pictures
        sources: list[tuple[str, int, int]] = []  # file, first record, number of records
        entries, position = [], 0
        for video_id, results in staged.items():
            version, about = self.versions[video_id], results.about
            entry: dict[str, Any] = {"video_id": video_id, "version": version, "problem": ""}
            if video_id in self.problems:
                entry |= {"problem": self.problems[video_id], "attempt": self.attempt(video_id)}
            elif (about.get("version"), about.get("pictures")) == (version, [*pictures]):
                entry |= {k: about[k] for k in ("num_frames", "fps")}
                sources.append((str(results.frames), 0, shards.num_chunks(entry["num_frames"])))
            else:
                entry = dict(old[video_id])
                if not entry["problem"]:
                    chunks = shards.num_chunks(entry["num_frames"])
                    path = str(self.collection.shard(record))
                    sources.append((path, entry["position"], chunks))
            if not entry["problem"]:
                entry["position"] = position
                position += sources[-1][2]
            entries.append(entry)
        if record and [*old.values()] == entries == record["videos"]:
            return record  # only vectors or boxes are new
        digest = hashlib.sha256(repr((pictures, entries)).encode()).hexdigest()[:8]
        name = f"{part:05d}-{digest}.array_record"
        target = self.collection.root / "parts" / name
        filesystem.make_folder(target.parent)
        with filesystem.writing(target) as temporary:
            with shards.Writer(temporary) as writer:
                for path, first, count in sources:
                    shards.copy(path, first, count, writer)
            size = temporary.stat().st_size
        for entry in entries:
            if not entry["problem"]:
                entry["shard"] = f"parts/{name}"
        return {"pictures": list(pictures), "shard": name, "size": size, "videos": entries}

    def write_vectors(self, variant: Variant, part: int, staged: Mapping[str, Staged]) -> None:
        """Write the vectors of a part from staged and stored vectors."""
        stored = self.collection.read_vectors(variant, part)
        keys = zip(stored.video_ids, stored.versions, strict=True)
        row_of = {key: row for row, key in enumerate(keys)}
        ids, vectors, num_rows = [], [], []
        encoding = self.encoding_key(variant)
        for video_id, results in staged.items():
            row = row_of.get((video_id, self.source(variant, video_id)))
            if video_id in self.problems:
                continue
            if results.vector(encoding).exists():
                vectors.append(np.load(results.vector(encoding), allow_pickle=False))
                num_rows.append(results.about["num_rows"][variant.extraction.key])
            elif row is not None:
                vectors.append(stored.vectors[row])
                num_rows.append(int(stored.num_rows[row]))
            else:
                continue  # a video with a problem of an earlier run
            ids.append(video_id)
        new = PartVectors(
            tuple(ids),
            tuple(self.source(variant, video_id) for video_id in ids),
            np.array(vectors, np.float32).reshape(len(ids), -1),
            np.array(num_rows, np.int64),
        )
        self.collection.write_vectors(variant, part, new)

    def write_boxes(self, extraction: Extraction, part: int, staged: Mapping[str, Staged]) -> None:
        """Write the boxes of people of a part from staged and stored boxes."""
        path = self.collection.boxes_path(extraction.key, part)
        texts: dict[str, bytes] = {}
        if path.is_file():
            with path.open("rb") as file, zipfile.ZipFile(file) as archive:
                texts = {n: archive.read(n) for n in archive.namelist() if n[:-3] in staged}
        for video_id, results in staged.items():
            if results.boxes(extraction).exists():
                texts[f"{video_id}.bb"] = results.boxes(extraction).read_bytes()
        filesystem.make_folder(path.parent)
        with filesystem.writing(path) as temporary:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, text in texts.items():
                    archive.writestr(name, text)

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


def _staging(root: Any, folder: Path | None) -> Path:
    """Return the local folder of unfinished work."""
    if folder is None and not filesystem.is_remote(root):
        return Path(root) / "staging"
    name = hashlib.sha256(str(root).encode()).hexdigest()[:12]
    return (folder or filesystem.cache_folder()) / f"staging-{name}"


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
