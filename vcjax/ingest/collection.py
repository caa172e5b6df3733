"""The folder of a collection: all that belongs to its videos, and to no experiment.

    collection.json                size and codec of the pictures, number of parts
    index.tsv, problems.tsv        the videos with their labels, and those that cannot be used
    parts/PART.json                the videos of a part: source, length, place in the shard
    parts/PART-DIGEST.array_record their frames
    models/VARIANT.npz, .json      PCA, mixture and sketch of a variant of Fisher vectors, and the
                                   ids of the videos that they are fitted to
    vectors/VARIANT/PART.npz       p(psi) of the videos of a part
    boxes/DETECTOR/PART.zip        boxes of people

A video belongs to the part that a hash of its id selects, so a part depends on no other video.
"""

import contextlib
import functools
import hashlib
import math
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

import fisher
from fisher.vectors import FisherVectors
from vcjax.data import manifest as manifests
from vcjax.data import shards
from vcjax.data.manifest import Manifest, ManifestError, Problem
from vcjax.ingest.variant import Variant
from vcjax.runtime import checksums, filesystem, npz, sharding

VIDEOS_PER_PART = 64
_ABOUT = "collection.json"


class Pictures(NamedTuple):
    """Encoding of the frames."""

    side: int  # short side in pixels; smaller videos keep their size
    codec: str  # jpeg or h264


class Collection:
    """A collection in a local or remote folder.

    Attributes:
        root: The folder, a Path or UPath.
        pictures: Encoding of the frames.
        num_parts: Number of parts.
    """

    def __init__(self, root: Any, pictures: Pictures, num_parts: int) -> None:
        self.root, self.pictures, self.num_parts = root, pictures, num_parts

    @classmethod
    def create(cls, root: Any, pictures: Pictures, num_videos: int) -> "Collection":
        """Return the collection in `root`, which is created unless it exists.

        If it exists with frames of another encoding, its videos have to be encoded again.
        """
        exists = cls.exists(root)
        collection = (
            cls.open(root)
            if exists
            else cls(root, pictures, math.ceil(num_videos / VIDEOS_PER_PART))
        )
        if not exists or collection.pictures != pictures:
            collection.pictures = pictures
            filesystem.make_folder(root)
            about = {"format": 1, **pictures._asdict(), "num_parts": collection.num_parts}
            filesystem.write_text(root / _ABOUT, checksums.as_json(about))
        return collection

    @staticmethod
    def exists(root: Any) -> bool:
        """Return True if `root` is a collection."""
        return bool((root / _ABOUT).is_file())

    @classmethod
    def open(cls, root: Any) -> "Collection":
        """Return the collection in `root`.

        Raises:
            ManifestError: If `root` is not a collection.
        """
        try:
            about = checksums.read_json(root / _ABOUT)
        except FileNotFoundError:
            raise ManifestError(
                f"{root}: not a collection; make one with `vcjax ingest VIDEOS {root}`"
            ) from None
        return cls(root, Pictures(about["side"], about["codec"]), about["num_parts"])

    def part_of(self, video_id: str) -> int:
        """Return the part that a video belongs to."""
        return int(hashlib.sha256(video_id.encode()).hexdigest()[:12], 16) % self.num_parts

    def record(self, part: int) -> dict[str, Any]:
        """Return the description of a part, or {} if it is missing or damaged.

        The description has the "pictures", the "shard", its "size" in bytes, and one entry per
        video in "videos".
        """
        try:
            return checksums.read_json(self.record_path(part))
        except (FileNotFoundError, checksums.DamagedError):
            return {}

    def record_path(self, part: int) -> Any:
        """Return the path of the description of a part."""
        return self.root / "parts" / f"{part:05d}.json"

    def write_record(self, part: int, record: dict[str, Any]) -> None:
        """Write the description of a part."""
        path = self.record_path(part)
        filesystem.make_folder(path.parent)
        filesystem.write_text(path, checksums.as_json(record))

    def shard(self, record: dict[str, Any]) -> Any:
        """Return the path of the shard of a part."""
        return self.root / "parts" / record["shard"]

    def boxes_path(self, key: str, part: int) -> Any:
        """Return the path of the boxes of an extraction in a part."""
        return self.root / "boxes" / key / f"{part:05d}.zip"

    def boxes(self, key: str, video_id: str) -> str:
        """Return the content of the box file of a video, as `vcjax idt detect` writes it."""
        path = self.boxes_path(key, self.part_of(video_id))
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return archive.read(f"{video_id}.bb").decode("ascii")

    def model_path(self, variant: Variant) -> Any:
        """Return the path of the model of a variant."""
        return self.root / "models" / f"{variant.key}.npz"

    def model(self, variant: Variant) -> fisher.Model:
        """Return the model of a variant."""
        return fisher.Model.load(filesystem.cached(str(self.model_path(variant))))

    def model_digest(self, variant: Variant) -> str:
        """Return the checksum of the model of a variant, "" if there is none."""
        path = str(self.model_path(variant).with_suffix(".json"))
        try:
            return _model_digest(path, filesystem.file_version(path))
        except (FileNotFoundError, checksums.DamagedError):
            return ""

    def fitted_to(self, variant: Variant) -> tuple[str, ...]:
        """Return the ids of the videos that the model of a variant was drawn from, if any."""
        try:
            about = checksums.read_json(self.model_path(variant).with_suffix(".json"))
        except (FileNotFoundError, checksums.DamagedError):
            return ()
        return tuple(about["fitted_to"])

    def write_model(self, variant: Variant, model: fisher.Model, fitted_to: Sequence[str]) -> None:
        """Write the model of a variant, and then its description and checksum."""
        target = self.model_path(variant)
        filesystem.make_folder(target.parent)
        with filesystem.writing(target) as temporary:
            model.save(temporary)
            digest = checksums.checksum(temporary)
        about = {"variant": variant.as_json(), "fitted_to": list(fitted_to)}
        filesystem.write_text(
            target.with_suffix(".json"), checksums.as_json(about | {"model": digest})
        )

    def vectors_path(self, variant: Variant, part: int) -> Any:
        """Return the path of the vectors of a variant in a part."""
        return self.root / "vectors" / variant.key / f"{part:05d}.npz"

    def read_vectors(self, variant: Variant, part: int) -> "PartVectors":
        """Return the vectors of a variant in a part; none if they are missing or damaged."""
        path = self.vectors_path(variant, part)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                keys = ("model", "video_ids", "versions", "vectors", "num_rows")
                model, ids, versions, vectors, num_rows = (arrays[key] for key in keys)
        except npz.UNREADABLE:
            model = ""
        if not model or str(model) != self.model_digest(variant):
            return PartVectors((), (), np.zeros((0, 0), np.float32), np.zeros(0, np.int64))
        return PartVectors(tuple(ids.tolist()), tuple(versions.tolist()), vectors, num_rows)

    def write_vectors(self, variant: Variant, part: int, vectors: "PartVectors") -> None:
        """Write the vectors of a variant in a part."""
        path = self.vectors_path(variant, part)
        filesystem.make_folder(path.parent)
        with filesystem.writing(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                model=self.model_digest(variant),
                video_ids=np.array(vectors.video_ids, str),
                versions=np.array(vectors.versions, str),
                vectors=vectors.vectors,
                num_rows=vectors.num_rows,
                allow_pickle=False,
            )

    def fisher_vectors(self, variant: Variant, video_ids: Sequence[str]) -> FisherVectors:
        """Return p(psi) of `video_ids`, in this order.

        Raises:
            ManifestError: If the collection has no vectors of this variant, or not of all videos.
        """
        self.check_variant(variant)
        row_of = {video_id: row for row, video_id in enumerate(video_ids)}
        vectors = np.zeros((0, 0), np.float32)
        has_vector, missing = np.zeros(len(row_of), bool), set(row_of)
        for part in sorted(set(map(self.part_of, video_ids))):
            stored = self.read_vectors(variant, part)
            if len(stored.vectors) and not vectors.size:
                vectors = sharding.aligned_zeros(len(row_of), stored.vectors.shape[1])
            for video_id, vector, count in zip(
                stored.video_ids, stored.vectors, stored.num_rows, strict=True
            ):
                if video_id in row_of:
                    vectors[row_of[video_id]], has_vector[row_of[video_id]] = vector, count > 0
            missing.difference_update(stored.video_ids)
        if missing:
            raise ManifestError(
                f"{self.root}: the Fisher vectors of {len(missing)} of {len(video_ids)} videos, "
                f"such as {min(missing)}, are missing or damaged; run `vcjax ingest` again with "
                "the config of this run, or the same command if the collection is part of a run"
            )
        return FisherVectors(tuple(video_ids), vectors, has_vector)

    def has_vector(self, variant: Variant, video_ids: Sequence[str]) -> Bool[np.ndarray, " n"]:
        """Return whether each of `video_ids` has a Fisher vector, without reading the vectors."""
        rows: dict[str, int] = {}
        for part in sorted(set(map(self.part_of, video_ids))):
            with contextlib.suppress(*npz.UNREADABLE):
                with self.vectors_path(variant, part).open("rb") as file, np.load(file) as arrays:
                    rows |= dict(zip(arrays["video_ids"].tolist(), arrays["num_rows"], strict=True))
        return np.array([rows.get(video_id, 0) > 0 for video_id in video_ids], bool)

    def check_variant(self, variant: Variant) -> None:
        """Raise ManifestError if there are no vectors of `variant`."""
        if not self.model_digest(variant):
            available = "; ".join(v.describe() for v in self.variants()) or "none"
            raise ManifestError(
                f"{self.root}: no Fisher vectors of {variant.describe()} (available: {available}); "
                "run `vcjax ingest` with the config of this run to add them, or use the settings "
                "of available vectors (their seed is --config.data.seed)"
            )

    def damaged(self, variants: Iterable[Variant], *, whole: bool = False) -> Iterator[Any]:
        """Yield files that are missing or damaged; shards are read if `whole`, else their size."""
        for part in range(self.num_parts):
            record = self.record(part)
            if not record:
                yield self.record_path(part)
                continue
            shard = self.shard(record)
            intact = filesystem.size_of(shard) == record["size"]
            if not intact or whole and not shards.is_intact(str(shard)):
                yield shard
            usable = [entry for entry in record["videos"] if not entry["problem"]]
            for variant in variants:
                if usable and not self.read_vectors(variant, part).video_ids:
                    yield self.vectors_path(variant, part)

    def variants(self) -> list[Variant]:
        """Return the variants of Fisher vectors in the collection."""
        folder = self.root / "models"
        files = sorted(folder.glob("*.json")) if folder.is_dir() else []
        return [Variant.from_json(checksums.read_json(path)["variant"]) for path in files]

    def summary(self) -> str:
        """Return the number of videos and the size of the collection by kind, in one line each."""
        records = [self.record(part) for part in range(self.num_parts)]
        entries = [entry for record in records for entry in record.get("videos", ())]
        bad = sum(bool(entry["problem"]) for entry in entries)
        shard_bytes = sum(record.get("size", 0) for record in records)
        lines = [
            f"{self.root}: {len(entries) - bad} videos, {bad} left out (problems.tsv)",
            f"  frames: {shard_bytes / 1e6:.1f} MB, short side {self.pictures.side} pixels, "
            f"{self.pictures.codec}",
        ]
        lines += [f"  vectors: {variant.describe()}" for variant in self.variants()]
        return "\n".join(lines)

    def manifest(self) -> Manifest:
        """Return the videos, whose paths refer to their frames in the shards.

        Raises:
            ManifestError: If the collection is incomplete.
        """
        if not (self.root / manifests.INDEX).is_file():
            raise ManifestError(
                f"{self.root}: the collection is incomplete; run `vcjax ingest` again to finish it"
            )
        return manifests.read(self.root)

    def write_index(self, videos: Manifest, entries: Iterable[dict[str, Any]]) -> list[Problem]:
        """Write the index of all videos from their entries, and return the problems."""
        entries = list(entries)
        problems = [
            Problem(video_id, path, entry["problem"])
            for video_id, path, entry in zip(videos.video_ids, videos.paths, entries, strict=True)
            if entry["problem"]
        ]
        manifests.save_problems(problems, self.root / "problems.tsv")
        if len(problems) < len(videos):
            manifests.save_index(videos, entries, self.root)
        return problems


@functools.lru_cache
def _model_digest(path: str, version: tuple[int, str]) -> str:
    """Return the checksum in the description of a model, a file of this `version`.

    It is needed for each part, and the description has the ids of all videos of the fit.
    """
    return str(checksums.read_json(filesystem.path_of(path))["model"])


class PartVectors(NamedTuple):
    """Vectors of the videos of a part."""

    video_ids: tuple[str, ...]
    versions: tuple[str, ...]  # of the video files that the vectors were made from
    vectors: np.ndarray  # float32 [videos, dimensions]; 0 for a video without trajectories
    num_rows: np.ndarray  # trajectories per video
