"""Plan of an ingest: the results that each video of a collection lacks, and the jobs for them."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from vcjax.data.manifest import Manifest
from vcjax.ingest.collection import Collection
from vcjax.ingest.one_pass import Encoding, Job, Staged
from vcjax.ingest.variant import Variant, version_of
from vcjax.runtime import filesystem


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


class Need(NamedTuple):
    """Results that a video lacks."""

    frames: bool
    variants: tuple[Variant, ...]


class Plan:
    """The videos, parts and variants of a collection, and the results that each video lacks."""

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

    def needs(self, part: int) -> dict[str, Need]:
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
                needs[video_id] = Need(entry is None, lacking)
        return needs

    def source(self, variant: Variant, video_id: str) -> str:
        """Return the version of the inputs of a vector."""
        return variant.extraction.version(video_id, self.versions[video_id])

    def is_stale(self, part: int) -> bool:
        """Return True if a part lacks results, or holds videos that no longer exist."""
        record = self.collection.record(part)
        ids = [entry["video_id"] for entry in record.get("videos", ())]
        return not record or ids != self.parts[part] or bool(self.needs(part))

    def job(self, video_id: str, need: Need, *, fitted: bool) -> Job:
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

    def is_own(self, part: int) -> bool:
        """Return True if this machine writes `part`."""
        return part % self.options.shard.total == self.options.shard.number


def _staging(root: Any, folder: Path | None) -> Path:
    """Return the local folder of unfinished work."""
    if folder is None and not filesystem.is_remote(root):
        return Path(root) / "staging"
    name = hashlib.sha256(str(root).encode()).hexdigest()[:12]
    return (folder or filesystem.cache_folder()) / f"staging-{name}"
