"""The stage `manifest`: find, verify and split the videos."""

import hashlib
import logging
from pathlib import Path

from ml_collections import ConfigDict

from vcjax import settings
from vcjax.data import manifest as manifests
from vcjax.data import splits, synthetic, verify
from vcjax.data.manifest import Manifest
from vcjax.pipeline import workdir as workdirs
from vcjax.runtime.stage_cache import Stage

log = logging.getLogger(__name__)


def manifest_stage(name: str, config: ConfigDict, workdir: Path) -> Stage:
    """The usable videos and their sides, into `manifest.tsv`; the rest into `problems.tsv`."""
    data = workdirs.data_settings(config)
    seed = config.seed if config.data.seed < 0 else config.data.seed
    if not config.data.rendered.num_videos:
        if not config.data.manifest:
            raise settings.SettingsError(
                "no videos: give --config.data.manifest=FOLDER_OR_TSV, or use the variant :rendered"
            )
        data["source"] = manifests.signature(config.data.manifest)

    def run(directory: Path) -> str:
        source = config.data.manifest
        if config.data.rendered.num_videos:
            source = synthetic.render(
                directory / "videos",
                num_videos=config.data.rendered.num_videos,
                seed=seed,
                num_workers=workdirs.num_workers(config),
                look=synthetic.Look(config.data.rendered.contrast, config.data.rendered.brightness),
            )
        manifest, problems = verify.verify(
            manifests.read(source),
            on_error=config.data.on_error,
            decode=config.data.verify == "decode",
            num_workers=workdirs.num_workers(config),
        )
        manifests.save_problems(problems, directory / "problems.tsv")
        manifest = splits.assign_split(
            manifest,
            group=group_column(config, manifest),
            holdout=config.data.holdout,
            seed=seed,
            assigned=_known_split(directory / "manifest.tsv", manifest, config),
        )
        manifest = splits.subsample(manifest, config.data.num_videos, seed=seed)
        manifests.save(manifest, directory / "manifest.tsv")
        log.info("%s", manifests.summary(manifest, problems))
        return hashlib.sha256((directory / "manifest.tsv").read_bytes()).hexdigest()[:16]

    return Stage(
        name,
        data | {"seed": seed},
        (),
        run,
        keeps=True,
        which_videos=("manifest", "source", "on_error", "verify"),
        by_video=("manifest.tsv",),
    )


def _known_split(path: Path, manifest: Manifest, config: ConfigDict) -> dict[str, str]:
    """The side of each video by id, as this stage has drawn it before; only some have changed."""
    if not path.exists():
        return {}
    before = manifests.load(path)
    share = config.data.max_changed_share
    if not splits.mostly_unchanged(before.video_ids, manifest.video_ids, max_share=share):
        return {}
    return dict(zip(before.video_ids, before.split, strict=True))


def group_column(config: ConfigDict, manifest: Manifest) -> str:
    """The label column that `data.group` names, or "" for none."""
    if config.data.group == "auto":
        return next((c for c in settings.GROUP_COLUMNS if c in manifest.labels), "")
    if config.data.group and config.data.group not in manifest.labels:
        raise settings.SettingsError(
            f"data.group is {config.data.group!r}, and the manifest's label columns are "
            f"{sorted(manifest.labels)}"
        )
    return config.data.group
