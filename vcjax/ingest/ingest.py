"""Making and extending a collection: plan, fit of the models, encoding of every video, parts.

Only videos that are new, changed, or without a vector of some variant are read. The trajectories of
the videos that a model is fitted to are staged until the model exists; every other video goes from
its frames to its Fisher vectors in one process, and its trajectories are removed at once.
"""

import fcntl
import hashlib
import logging
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

import fisher
from vcjax.data import shards, verify
from vcjax.data.manifest import Manifest, ManifestError, Problem
from vcjax.idt import fisher_vectors, storage
from vcjax.ingest import one_pass
from vcjax.ingest.collection import Collection, PartVectors, Pictures
from vcjax.ingest.one_pass import Encoding, Job, Staged
from vcjax.ingest.variant import Extraction, Variant
from vcjax.runtime import filesystem, progress, worker_pool

log = logging.getLogger(__name__)

_GROUP_VIDEOS = 256  # videos that are staged before their parts are written
_MAX_VANISHED = 0.5


class Share(NamedTuple):
    """Share of one machine, `number` of `total`, where machines make a collection together."""

    number: int = 0
    total: int = 1


class Options(NamedTuple):
    """Execution of an ingest, which does not change its result."""

    num_workers: int
    on_error: str = "error"
    share: Share = Share()
    trajectories: Path | None = None  # folder that keeps trajectory files
    staging: Path | None = None  # local folder for unfinished work; None: in the collection


def ingest(
    videos: Manifest,
    root: Any,
    pictures: Pictures,
    variants: Sequence[Variant],
    options: Options,
    *,
    fit_ids: Sequence[str] | None = None,
    refit: bool = False,
) -> Collection:
    """Bring the collection in `root` up to date with `videos`, and return it.

    Args:
        videos: All videos of the collection; others are removed from it.
        root: Local or remote folder.
        pictures: Encoding of the frames.
        variants: Fisher vectors to compute, in one pass over the videos that lack any of them.
        options: Execution.
        fit_ids: Videos to draw the rows of the fit from; None: all.
        refit: Fit the models of all `variants` again, which also encodes all videos again.

    Raises:
        ManifestError: If videos cannot be used and `on_error` is "error" (raised after all other
            videos were read), or if more than half of the collection's videos are not in `videos`.
    """
    collection = Collection.create(root, pictures, len(videos))
    work = _Work(collection, videos, tuple(variants), options)
    with _only_one(work.staging / f"share-{options.share.number}-of-{options.share.total}.lock"):
        work.check_vanished()
        for variant in variants if refit else ():
            collection.remove_model(variant)
        work.fit(fit_ids if fit_ids is not None else videos.video_ids)
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
        self.staging = options.staging or Path(collection.root) / "staging"
        self.paths = dict(zip(videos.video_ids, videos.paths, strict=True))
        self.versions = {i: one_pass.version_of(path) for i, path in self.paths.items()}
        self.parts: dict[int, list[str]] = {part: [] for part in range(collection.num_parts)}
        for video_id in videos.video_ids:
            self.parts[collection.part_of(video_id)].append(video_id)
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
            log.info("%d videos no longer exist and are removed", len(vanished))

    def staged(self, video_id: str) -> Staged:
        """Return the staged results of a video."""
        return Staged(self.staging / hashlib.sha256(video_id.encode()).hexdigest()[:24])

    def entries(self, part: int) -> dict[str, dict[str, Any]]:
        """Return the entries of a part's videos whose files are unchanged, by video id."""
        record = self.collection.record(part)
        if not record or filesystem.size_of(self.collection.shard(record)) != record["size"]:
            return {}
        return {
            entry["video_id"]: entry
            for entry in record["videos"]
            if entry["version"] == self.versions.get(entry["video_id"])
        }

    def needs(self, part: int) -> dict[str, _Need]:
        """Return the videos of a part that have to be read, and the results that each lacks."""
        entries = self.entries(part)
        vectors = [self.collection.read_vectors(v, part) for v in self.variants]
        encoded = [set(zip(v.video_ids, v.versions, strict=True)) for v in vectors]
        needs = {}
        for video_id in self.parts[part]:
            entry, key = entries.get(video_id), (video_id, self.versions[video_id])
            if entry and entry["problem"]:
                continue  # it fails again unless its file changes
            lacking = tuple(
                v for v, keys in zip(self.variants, encoded, strict=True) if key not in keys
            )
            if lacking or entry is None:
                needs[video_id] = _Need(entry is None, lacking)
        return needs

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
                v.key,
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

    def run(self, jobs: Sequence[Job], bar: Any) -> None:
        """Run the jobs in worker processes, and collect the problems."""
        for result in worker_pool.run_all(jobs, one_pass.stage, self.options.num_workers):
            if result.problem:
                job = result.job
                self.problems[job.video_id] = result.problem.removeprefix(f"{job.path}: ")
            bar.update()

    def fit(self, ids: Sequence[str]) -> None:
        """Fit and write the models that are missing, to rows of videos drawn from `ids`.

        Raises:
            ManifestError: If a drawn video cannot be used and `on_error` is "error", because the
                model would depend on it.
        """
        missing = [v for v in self.variants if not self.collection.model_digest(v)]
        drawn = {v.key: fisher.sample_items(ids, v.fisher["num_videos"], v.seed) for v in missing}
        all_drawn = {video_id for video_ids in drawn.values() for video_id in video_ids}
        needs = {
            video_id: need
            for part in self.parts
            for video_id, need in self.needs(part).items()
            if video_id in all_drawn
        }
        # own videos first, then those that other machines have not staged by then
        order = sorted(needs, key=lambda i: not self.is_own(self.collection.part_of(i)))
        jobs = [self.job(video_id, needs[video_id], fitted=False) for video_id in order]
        if jobs:
            with progress.bar(desc="ingest: drawn videos", unit="video", total=len(jobs)) as bar:
                self.run(jobs, bar)
        verify.check_problems(self.listed_problems(), len(self.videos), self.options.on_error)
        for variant in missing:
            with _only_one(self.staging / f"{variant.key}.lock"):
                if not self.collection.model_digest(variant):
                    self.fit_one(variant, [i for i in drawn[variant.key] if i in needs])

    def fit_one(self, variant: Variant, video_ids: Sequence[str]) -> None:
        """Fit the model of one variant to rows of staged videos, and write it."""

        def features(video_id: str) -> Float[np.ndarray, "_ d"]:
            path = self.staged(video_id).trajectories(variant.extraction)
            return storage.read(path).features

        usable = [video_id for video_id in video_ids if video_id not in self.problems]
        settings = ConfigDict(dict(variant.fisher))
        model = fisher_vectors.fit(usable, features, settings, seed=variant.seed)
        self.collection.write_model(variant, model)

    def is_own(self, part: int) -> bool:
        """Return True if this machine writes `part`."""
        return part % self.options.share.total == self.options.share.number

    def encode(self) -> None:
        """Read all own videos that lack a result, and write the parts that change."""
        own = [part for part in self.parts if self.is_own(part)]
        stale = [part for part in own if self.is_stale(part)]
        total = sum(len(self.needs(part)) for part in stale)
        log.info("ingest: %d of %d parts to write, %d videos to read", len(stale), len(own), total)
        with progress.bar(desc="ingest", unit="video", total=total) as bar:
            for group in self.groups(stale):
                needs = {i: need for part in group for i, need in self.needs(part).items()}
                jobs = [
                    self.job(video_id, need, fitted=True)
                    for video_id, need in needs.items()
                    if video_id not in self.problems
                ]
                self.run(jobs, bar)
                for part in group:
                    self.write_part(part)

    def groups(self, parts: Sequence[int]) -> Iterator[list[int]]:
        """Yield consecutive parts of some hundred videos, which are staged together."""
        group: list[int] = []
        for part in parts:
            group.append(part)
            if sum(len(self.parts[p]) for p in group) >= _GROUP_VIDEOS:
                yield group
                group = []
        if group:
            yield group

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
        record = self.collection.record(part)
        sources: list[tuple[str, int, int]] = []  # file, first record, number of records
        entries, position = [], 0
        for video_id, results in staged.items():
            entry: dict[str, Any] = {
                "video_id": video_id,
                "version": self.versions[video_id],
                "problem": "",
            }
            about = results.about
            if video_id in self.problems:
                entry |= {"problem": self.problems[video_id]}
            elif results.frames.exists() and about["version"] == entry["version"]:
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
        digest = hashlib.sha256(repr(entries).encode()).hexdigest()[:8]
        name = f"{part:05d}-{digest}.array_record"
        target = self.collection.root / "parts" / name
        filesystem.make_folder(target.parent)
        with filesystem.writing(target) as temporary:
            with shards.Writer(temporary) as writer:
                for path, first, count in sources:
                    for number in range(first, first + count):
                        writer.write(shards.record(path, number))
            size = temporary.stat().st_size
        for entry in entries:
            if not entry["problem"]:
                entry["shard"] = f"parts/{name}"
        return {"shard": name, "size": size, "videos": entries}

    def write_vectors(self, variant: Variant, part: int, staged: Mapping[str, Staged]) -> None:
        """Write the vectors of a part from staged and stored vectors."""
        stored = self.collection.read_vectors(variant, part)
        keys = zip(stored.video_ids, stored.versions, strict=True)
        row_of = {key: row for row, key in enumerate(keys)}
        ids, vectors, num_rows = [], [], []
        for video_id, results in staged.items():
            row = row_of.get((video_id, self.versions[video_id]))
            if video_id in self.problems:
                continue
            if results.vector(variant.key).exists():
                vectors.append(np.load(results.vector(variant.key), allow_pickle=False))
                num_rows.append(results.about["num_rows"][variant.extraction.key])
            elif row is not None:
                vectors.append(stored.vectors[row])
                num_rows.append(int(stored.num_rows[row]))
            else:
                continue  # a video with a problem of an earlier run
            ids.append(video_id)
        new = PartVectors(
            tuple(ids),
            tuple(self.versions[video_id] for video_id in ids),
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
        needed = {record["shard"] for record in records.values()}
        for path in (self.collection.root / "parts").glob("*.array_record"):
            if path.name not in needed:
                path.unlink()


@contextmanager
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
