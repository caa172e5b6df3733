"""The stage `ingest`: one decode of every video into a collection (Sec. 3.3, 4.2)."""

import hashlib
import logging
from collections.abc import Collection as Names
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ml_collections import ConfigDict

from vcjax import settings
from vcjax.data import manifest as manifests
from vcjax.data import shards, splits
from vcjax.data.manifest import Manifest
from vcjax.ingest.collection import Collection, Pictures
from vcjax.ingest.ingest import Options, ingest
from vcjax.ingest.variant import Variant
from vcjax.pipeline import workdir as workdirs
from vcjax.runtime.stage_cache import Stage

log = logging.getLogger(__name__)

_FITTED = "fitted.txt"  # ids of the videos that the stage `fisher` fitted its model to


def ingest_stage(name: str, config: ConfigDict, workdir: Path, videos: workdirs.Videos) -> Stage:
    """Return the stage that makes the collection of the run, and lists its valid videos.

    With `data.collection` the stage only checks that the collection serves the run.
    """

    def check(running: Names[str]) -> None:
        manifest = videos(running)
        if config.data.collection:
            workdirs.check_size(config, workdirs.collection(config, workdir).pictures)
        elif any(shards.parse(path) for path in manifest.paths):
            raise settings.SettingsError(
                f"--config.data.manifest={config.data.manifest} holds reduced frames and not the "
                "original videos; use --config.data.collection, or pass the original videos"
            )

    def run(directory: Path) -> str:
        manifest = manifests.load(workdir / "manifest" / "manifest.tsv")
        # vectors are computed here already, in the same pass over the frames
        variants = [workdirs.variant(config)] if "fisher" in config.stages else []
        collection = update(config, workdir, manifest, variants)
        usable = collection.manifest()
        row_of = {video_id: row for row, video_id in enumerate(usable.video_ids)}
        valid = manifest.take(r for r, i in enumerate(manifest.video_ids) if i in row_of)
        stored = usable.take(row_of[video_id] for video_id in valid.video_ids)
        valid = replace(valid, paths=stored.paths, num_frames=stored.num_frames)
        manifests.save(valid, directory / "manifest.tsv")
        content = (valid.video_ids, valid.num_frames, valid.split, collection.pictures)
        return hashlib.sha256(repr(content).encode()).hexdigest()[:16]

    return Stage(
        name,
        {"side": config.data.side, "codec": config.data.codec},
        ("manifest",),
        run,
        keeps=True,
        files="manifest.tsv",
        section="data",
        check=check,
    )


def fisher_stage(name: str, config: ConfigDict, workdir: Path, videos: workdirs.Videos) -> Stage:
    """Return the stage that completes the Fisher vectors of the collection (Sec. 3.3).

    If few videos have changed, the model is kept.
    """

    def run(directory: Path) -> None:
        manifest = manifests.load(workdir / "manifest" / "manifest.tsv")
        update(config, workdir, manifest, [workdirs.variant(config)])
        vectors = workdirs.fisher_vectors(config, workdir, workdirs.manifest(workdir))
        ids = "\n".join(_fit_ids(config, manifest))
        (directory / _FITTED).write_text(ids, encoding="utf-8")
        log.info("fisher: %d of %d videos have a vector", vectors.has_vector.sum(), len(manifest))

    return Stage(
        name,
        {"idt": config.idt.to_dict(), "fisher": config.fisher.to_dict()}
        | {"seed": workdirs.data_seed(config)},
        ("manifest", "ingest"),
        run,
        by_video=(_FITTED,),
    )


def update(
    config: ConfigDict, workdir: Path, manifest: Manifest, variants: Sequence[Variant]
) -> Collection:
    """Bring the collection of the run up to date with `manifest`, and return it.

    A collection that is shared by several runs is only read.

    Raises:
        ManifestError: If a shared collection lacks vectors, or if videos cannot be used.
    """
    if config.data.collection:
        collection = workdirs.collection(config, workdir)
        for variant in variants:
            collection.check_variant(variant)
        return collection
    return ingest(
        manifest,
        workdirs.collection_folder(config, workdir),
        Pictures(config.data.side or 2 * config.clip.side, config.data.codec),
        variants,
        Options(workdirs.num_workers(config), config.data.on_error),
        fit_ids=_fit_ids(config, manifest),
        refit=_refit(config, manifest, workdir / "fisher" / _FITTED),
    )


def _fit_ids(config: ConfigDict, manifest: Manifest) -> tuple[str, ...]:
    fitted = manifest if config.fisher.fit_split == "all" else manifest.subset("train")
    return fitted.video_ids


def _refit(config: ConfigDict, manifest: Manifest, fitted: Path) -> bool:
    """Return True if the model was fitted to other videos, too many of which have changed."""
    if not fitted.exists():
        return False
    before = fitted.read_text("utf-8").split("\n")
    share = config.data.max_changed_share
    return not splits.mostly_unchanged(before, _fit_ids(config, manifest), max_share=share)
