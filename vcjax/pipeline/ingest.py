"""The stages `ingest` and `fisher`: one decode of every video into a collection (Sec. 3.3, 4.2)."""

import hashlib
import logging
from collections.abc import Collection as Names
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ml_collections import ConfigDict

from vcjax import settings
from vcjax.data import manifest as manifests
from vcjax.data.manifest import Manifest
from vcjax.ingest.collection import Collection, Pictures
from vcjax.ingest.ingest import check_detectors, ingest
from vcjax.ingest.plan import Options
from vcjax.ingest.variant import Variant
from vcjax.pipeline import workdir as workdirs
from vcjax.runtime.stage_cache import Stage

log = logging.getLogger(__name__)

_MODEL = "model.txt"  # checksum of the model that the vectors of the collection belong to


def ingest_stage(name: str, config: ConfigDict, workdir: Path, videos: workdirs.Videos) -> Stage:
    """Return the stage that makes the collection of the run, and lists its valid videos.

    With `data.collection` the stage only checks that the collection serves the run. Shards of
    `vcjax data prepare` serve training as they are.
    """
    # vectors are computed here already, in the same pass over the frames
    variants = [workdirs.variant(config)] if "fisher" in config.stages else []

    def check(running: Names[str]) -> None:
        if config.data.collection:
            _check_shared(config, workdir, variants)
            return
        listed = videos(running) if "manifest" in running else _listed(workdir)
        if not workdirs.is_stored(listed):
            workdirs.check_side(config, _pictures(config, workdir).side)
            check_detectors(variants)
            return
        source = config.data.manifest
        workdirs.check_side(config, workdirs.stored_side(listed), source)
        if variants:
            raise settings.SettingsError(
                f"--config.data.manifest={source} holds reduced frames, and dense trajectories "
                "need the original videos; pass these, or a collection that was made of them by "
                "`vcjax ingest` as --config.data.collection"
            )

    def run(directory: Path) -> str:
        manifest = _listed(workdir)
        if not config.data.collection and workdirs.is_stored(manifest):
            manifests.save(manifest, directory / "manifest.tsv")
            return _digest(manifest)
        collection = _update(config, workdir, manifest, variants)
        usable = collection.manifest()
        row_of = {video_id: row for row, video_id in enumerate(usable.video_ids)}
        valid = manifest.take(r for r, i in enumerate(manifest.video_ids) if i in row_of)
        stored = usable.take(row_of[video_id] for video_id in valid.video_ids)
        valid = replace(valid, paths=stored.paths, num_frames=stored.num_frames)
        manifests.save(valid, directory / "manifest.tsv")
        if len(valid) < len(manifest):
            problems = f"{collection.root / 'problems.tsv'}"
            log.info("ingest: %d videos left out, %s", len(manifest) - len(valid), problems)
        return _digest(valid, *collection.pictures)

    return Stage(
        name,
        _pictures(config, workdir)._asdict(),
        ("manifest",),
        run,
        keeps=True,
        by_video=("manifest.tsv",),
        files="manifest.tsv",
        section="data",
        check=check,
        damaged=lambda: _damaged(config, workdir, ()),
    )


def fisher_stage(name: str, config: ConfigDict, workdir: Path, videos: workdirs.Videos) -> Stage:
    """Return the stage that completes the Fisher vectors of the collection (Sec. 3.3).

    If few videos have changed, the model is kept.
    """
    variant = workdirs.variant(config)

    def check(running: Names[str]) -> None:
        if not config.data.collection:
            check_detectors([variant])

    def run(directory: Path) -> None:
        collection = _update(config, workdir, _listed(workdir), [variant])
        digest = collection.model_digest(variant)
        (directory / _MODEL).write_text(f"{digest}  {collection.model_path(variant).name}\n")
        has_vector = collection.has_vector(variant, workdirs.manifest(workdir).video_ids)
        log.info("fisher: %d of %d videos have a vector", has_vector.sum(), len(has_vector))

    return Stage(
        name,
        {"idt": config.idt.to_dict(), "fisher": config.fisher.to_dict()}
        | {"seed": workdirs.data_seed(config)},
        ("manifest", "ingest"),
        run,
        by_video=(_MODEL,),
        check=check,
        damaged=lambda: _damaged(config, workdir, [variant]),
    )


def _listed(workdir: Path) -> Manifest:
    """Return the videos that the stage `manifest` listed."""
    return manifests.load(workdir / "manifest" / "manifest.tsv")


def _digest(manifest: Manifest, *more: object) -> str:
    content = (manifest.video_ids, manifest.num_frames, manifest.split, *more)
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def _pictures(config: ConfigDict, workdir: Path) -> Pictures:
    if config.data.collection:
        return workdirs.collection(config, workdir).pictures
    return workdirs.pictures(config, workdirs.collection_folder(config, workdir))


def _damaged(config: ConfigDict, workdir: Path, variants: Sequence[Variant]) -> list[Path]:
    """Return files of the run's own collection that are missing, truncated or damaged."""
    if config.data.collection or not workdirs.has_collection(config, workdir):
        return []
    collection = workdirs.collection(config, workdir)
    return [Path(path) for path in collection.damaged(variants)]


def _check_shared(config: ConfigDict, workdir: Path, variants: Sequence[Variant]) -> None:
    collection = workdirs.collection(config, workdir)
    workdirs.check_side(config, collection.pictures.side)
    collection.manifest()
    for variant in variants:
        collection.check_variant(variant)


def _update(
    config: ConfigDict, workdir: Path, manifest: Manifest, variants: Sequence[Variant]
) -> Collection:
    """Bring the collection of the run up to date with `manifest`, and return it.

    A collection that is shared by several runs is only read.

    Raises:
        ManifestError: If a shared collection lacks vectors, or if videos cannot be used.
    """
    if config.data.collection:
        _check_shared(config, workdir, variants)
        return workdirs.collection(config, workdir)
    return ingest(
        manifest,
        workdirs.collection_folder(config, workdir),
        _pictures(config, workdir),
        variants,
        Options(workdirs.num_workers(config), config.data.on_error),
        training=manifest.subset("train").video_ids,
        max_changed_share=config.data.max_changed_share,
    )
