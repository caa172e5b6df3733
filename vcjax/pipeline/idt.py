"""The stage `idt`: dense trajectories of every video (Sec. 3.3)."""

import logging
from pathlib import Path

from ml_collections import ConfigDict

from vcjax import settings
from vcjax.data import shards
from vcjax.idt import collection
from vcjax.pipeline import workdir as workdirs
from vcjax.runtime import filesystem
from vcjax.runtime.stage_cache import Stage

log = logging.getLogger(__name__)


def idt_stage(name: str, config: ConfigDict, workdir: Path) -> Stage:
    """Trajectories of every video, one file a video."""

    def run(directory: Path) -> None:
        manifest = workdirs.manifest(workdir)
        if any(shards.file_of(path) != path for path in manifest.paths):
            raise settings.SettingsError(
                "dense trajectories want the videos themselves: data.manifest is a prepared folder"
            )
        if any(map(filesystem.is_remote, manifest.paths)):
            raise settings.SettingsError(
                "dense trajectories want videos on a disk: some of data.manifest are remote"
            )
        counts = collection.extract_collection(
            dict(zip(manifest.video_ids, manifest.paths, strict=True)),
            directory,
            matcher=config.idt.matcher,
            people=Path(config.idt.people) if config.idt.people else None,
            num_workers=workdirs.num_workers(config),
            on_error=config.data.on_error,
        )
        empty = [video_id for video_id in manifest.video_ids if not counts.get(video_id)]
        log.info(
            "idt: %d trajectories of %d videos; %d videos have none",
            sum(counts.values()),
            len(manifest),
            len(empty),
        )

    # each file of trajectories has its own checksum
    return Stage(name, config.idt.to_dict(), ("manifest",), run, keeps=True, files="")
