"""The stages `ir`, `la_own`, `la` and `tune`: training without labels (Sec. 3, 4.2)."""

import functools
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from vcjax import settings
from vcjax.pipeline import workdir as workdirs
from vcjax.runtime.stage_cache import Stage
from vcjax.training import changed_videos, pretrain


def training_stage(name: str, config: ConfigDict, workdir: Path, videos: workdirs.Videos) -> Stage:
    """Return the stage that trains with the settings section `name` and writes `checkpoints`."""
    stage = config[name]
    inputs = ["manifest", *([stage.init_from] if stage.init_from else [])]
    depends: dict[str, Any] = {name: stage.to_dict(), "seed": config.seed}
    depends |= {k: config[k].to_dict() for k in ("clip", "model")}
    depends["epochs_scale"] = config.epochs_scale
    if stage.objective == "local_aggregation":
        depends["clusters"] = config.clusters.to_dict()
        inputs += ["fisher"] if stage.source in ("idt", "joint") else []

    def check(running: Collection[str]) -> None:
        training, num_points = videos(running).subset("train"), None
        if stage.get("source") == "idt" and not {"manifest", "fisher"} & set(running):
            num_points = workdirs.num_vectors(workdir, training)
        settings.resolve(
            config, name, len(training), num_points=num_points, num_devices=jax.device_count()
        )
        if stage.init_from and stage.init_from not in running:
            workdirs.check_network(config, workdir, name, stage.init_from)

    def run(directory: Path) -> None:
        manifest = workdirs.manifest(workdir)
        training = manifest.subset("train")
        changed_videos.remap_checkpoint(
            training.video_ids,
            lambda: pretrain.checkpoint_template(name, config, len(training)),
            directory / "checkpoints",
            batch_size=stage.batch_size,
            max_share=config.data.max_changed_share,
            seed=config.seed,
        )
        pretrain.pretrain(
            name,
            config,
            train=training,
            test=manifest.subset("test"),
            fisher=workdirs.fisher_vectors(workdir, training) if "fisher" in inputs else None,
            workdir=workdir,
        )

    return Stage(
        name,
        depends,
        tuple(inputs),
        run,
        together=True,
        by_video=("checkpoints",),
        networks=(stage.init_from,),
        check=check,
        extends=functools.partial(settings.only_trains_longer, name),
    )
