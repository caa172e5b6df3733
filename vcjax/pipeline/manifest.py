"""The stage `manifest`: list, verify and split the videos."""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

from ml_collections import ConfigDict

from vcjax import settings
from vcjax.data import manifest as manifests
from vcjax.data import splits, synthetic, verify
from vcjax.data.manifest import Manifest
from vcjax.pipeline import workdir as workdirs
from vcjax.runtime import stage_record
from vcjax.runtime.stage_cache import Stage

log = logging.getLogger(__name__)


_WHICH_VIDEOS = ("manifest", "source", "on_error", "verify", "collection")


def manifest_stage(name: str, config: ConfigDict, workdir: Path, videos: workdirs.Videos) -> Stage:
    """Return the stage that writes the videos and their split to `manifest.tsv`.

    If no stage `ingest` reads every video, they are verified, and invalid videos are written to
    `problems.tsv`.

    Raises:
        SettingsError: If the config names no videos.
        ManifestError: If its collection does not exist or is incomplete.
    """
    if config.data.collection:
        workdirs.collection(config, workdir).manifest()
    data = workdirs.data_settings(config)
    if not config.data.rendered.num_videos:
        if not (config.data.collection or config.data.manifest):
            raise settings.SettingsError(
                "no videos: set --config.data.manifest=FOLDER_OR_TSV or --config.data.collection, "
                "or use the variant :rendered"
            )
        data["source"] = manifests.signature(config.data.collection or config.data.manifest)

    def run(directory: Path) -> str:
        source = config.data.collection or config.data.manifest
        if config.data.rendered.num_videos:
            source = synthetic.render(
                directory / "videos",
                num_videos=config.data.rendered.num_videos,
                seed=workdirs.data_seed(config),
                num_workers=workdirs.num_workers(config),
                look=synthetic.Look(config.data.rendered.contrast, config.data.rendered.brightness),
            )
        manifest = manifests.read(source)
        problems: list[manifests.Problem] = []
        # the stage `ingest` verifies every video that it reads
        if "ingest" not in config.stages or _is_prepared(config, manifest):
            manifest, problems = verify.verify(
                manifest,
                on_error=config.data.on_error,
                decode=config.data.verify == "decode",
                num_workers=workdirs.num_workers(config),
            )
            manifests.save_problems(problems, directory / "problems.tsv")
        manifest = _split(manifest, config, directory / "manifest.tsv")
        manifests.save(manifest, directory / "manifest.tsv")
        log.info("%s", manifests.summary(manifest, problems))
        return hashlib.sha256((directory / "manifest.tsv").read_bytes()).hexdigest()[:16]

    return Stage(
        name,
        data | {"seed": workdirs.data_seed(config)},
        (),
        run,
        keeps=True,
        which_videos=_WHICH_VIDEOS,
        by_video=("manifest.tsv",),
        section="data",
        check=lambda running: _check(videos({name}), config),
    )


def _is_prepared(config: ConfigDict, manifest: Manifest) -> bool:
    return not config.data.collection and workdirs.is_stored(manifest)


def _check(manifest: Manifest, config: ConfigDict) -> None:
    if config.data.holdout and not len(manifest.rows("train")):
        source = config.data.collection or config.data.manifest
        raise manifests.ManifestError(f"{source}: no videos of the split train")


def listed(config: ConfigDict, workdir: Path) -> Manifest:
    """Return the videos and their split as the stage `manifest` does if every video is valid.

    No video is rendered or opened.
    """
    table = workdir / "manifest" / "manifest.tsv"
    if config.data.rendered.num_videos:
        manifest = synthetic.listed(config.data.rendered.num_videos, workdirs.data_seed(config))
    else:
        manifest = manifests.read(config.data.collection or config.data.manifest)
    recorded = stage_record.read(table.parent).get("settings", {})
    wanted = {k: v for k, v in workdirs.data_settings(config).items() if k not in _WHICH_VIDEOS}
    wanted |= {"seed": workdirs.data_seed(config)}
    same_recipe = all(recorded.get(key) == value for key, value in wanted.items())
    return _split(manifest, config, table if same_recipe else None)


def _split(manifest: Manifest, config: ConfigDict, previous: Path | None) -> Manifest:
    """Return the split videos; `previous` is the table of an earlier split to keep, if any."""
    if not config.data.holdout:
        split = replace(manifest, split=tuple(side or "train" for side in manifest.split))
        return splits.subsample(split, config.data.num_videos, seed=workdirs.data_seed(config))
    split = splits.assign_split(
        manifest,
        group=group_column(config, manifest),
        holdout=config.data.holdout,
        seed=workdirs.data_seed(config),
        previous=_previous_split(previous, manifest, config) if previous else None,
    )
    return splits.subsample(split, config.data.num_videos, seed=workdirs.data_seed(config))


def _previous_split(path: Path, manifest: Manifest, config: ConfigDict) -> dict[str, str]:
    """Return id -> split as last written by this stage, or {} if too many videos have changed."""
    if not path.exists():
        return {}
    before = manifests.load(path)
    share = config.data.max_changed_share
    if not splits.mostly_unchanged(before.video_ids, manifest.video_ids, max_share=share):
        return {}
    return dict(zip(before.video_ids, before.split, strict=True))


def group_column(config: ConfigDict, manifest: Manifest) -> str:
    """Return the label column that `data.group` refers to, or "" for none.

    Raises:
        SettingsError: If the manifest has no such column.
    """
    return settings.group_column(config.data.group, manifest.labels)
