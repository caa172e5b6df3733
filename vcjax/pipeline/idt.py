"""The stage `idt`: dense trajectories of every video (Sec. 3.3)."""

import logging
from collections.abc import Collection
from pathlib import Path

from ml_collections import ConfigDict

from vcjax import settings
from vcjax.data import shards
from vcjax.idt import collection
from vcjax.pipeline import workdir as workdirs
from vcjax.runtime import filesystem
from vcjax.runtime.stage_cache import Stage

log = logging.getLogger(__name__)


def idt_stage(name: str, config: ConfigDict, workdir: Path, videos: workdirs.Videos) -> Stage:
    """Return the stage that extracts trajectories into one file per video."""

    def check(running: Collection[str]) -> None:
        manifest = videos(running)
        if any(shards.file_of(path) != path for path in manifest.paths):
            raise settings.SettingsError(
                "dense trajectories require the original videos, but --config.data.manifest is a "
                "prepared folder; set it to the folder or table that was prepared"
            )
        if any(map(filesystem.is_remote, manifest.paths)):
            raise settings.SettingsError(
                "dense trajectories require local videos, but --config.data.manifest lists remote "
                "ones; copy them to a local disk"
            )

    def run(directory: Path) -> None:
        manifest = workdirs.manifest(workdir)
        counts = collection.extract_collection(
            dict(zip(manifest.video_ids, manifest.paths, strict=True)),
            directory,
            matcher=config.idt.matcher,
            people=Path(config.idt.people) if config.idt.people else None,
            num_workers=workdirs.num_workers(config),
            on_error=config.data.on_error,
            max_side=config.idt.max_side,
        )
        empty = [video_id for video_id in manifest.video_ids if not counts.get(video_id)]
        log.info(
            "idt: %d trajectories of %d videos; %d videos without trajectories",
            sum(counts.values()),
            len(manifest),
            len(empty),
        )

    # the files are not checksummed here, since each contains its own checksum
    return Stage(
        name,
        config.idt.to_dict(),
        ("manifest",),
        run,
        keeps=True,
        files="",
        section="idt",
        check=check,
    )
