"""The numbers of a training stage that follow from its settings and from its collection."""

from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from vcjax.settings.defaults import SettingsError, num_background, num_clusters, num_epochs


@dataclass(frozen=True)
class Sizes:
    """Sizes of a training stage. Those of clusters are 0 if its objective has no clusters."""

    num_epochs: int
    steps_per_epoch: int
    num_clusters: int = 0  # K
    num_cells: int = 0  # of an inverted file of the bank
    num_background: int = 0  # |B_i|


def resolve(
    config: ConfigDict,
    name: str,
    num_videos: int,
    *,
    num_points: int | None = None,
    num_devices: int = 1,
) -> Sizes:
    """Return the sizes of a training stage.

    Args:
      config: the settings of the run.
      name: a section of `config` that trains a network.
      num_videos: number of training videos.
      num_points: number of videos that are clustered; None: all.
      num_devices: number of devices, over all processes.

    Raises:
      SettingsError: if the videos are fewer than a batch or than the clusters, if a batch does not
        divide among the devices, or if the bank does not match the source of the clusters.
    """
    stage = config[name]
    if stage.batch_size > num_videos:
        raise SettingsError(
            f"a batch of {stage.batch_size} clips exceeds the {num_videos} training videos; "
            f"set --config.{name}.batch_size"
        )
    parts = stage.get("accumulation_steps", 1)
    if stage.batch_size % (num_devices * parts):
        in_parts = f" in {parts} parts" if parts > 1 else ""
        raise SettingsError(
            f"a batch of {stage.batch_size}{in_parts} does not divide among {num_devices} "
            f"devices; set --config.{name}.batch_size"
        )
    sizes = Sizes(num_epochs(stage, config.epochs_scale), num_videos // stage.batch_size)
    if stage.get("objective") != "local_aggregation":
        return sizes
    if stage.bank == "fisher" and stage.source != "idt":
        raise SettingsError(
            f"--config.{name}.bank is fisher, which needs clusters of Fisher vectors; set "
            f"--config.{name}.source=idt"
        )
    points = num_videos if num_points is None else num_points
    return Sizes(
        sizes.num_epochs,
        sizes.steps_per_epoch,
        num_clusters(config.clusters.num_clusters, points),
        num_clusters(config.clusters.num_clusters, num_videos),
        num_background(stage.num_background, num_videos),
    )


def only_trains_longer(name: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Return True if training with the settings `new` begins with the steps of `old`.

    This holds if the number of epochs grew or stayed, and no other setting changed but drops of the
    learning rate after the old end.

    Args:
      name: the section of the stage.
      old: the settings that a stage recorded, with the entry `epochs_scale`.
      new: its current settings.
    """
    if old.keys() != new.keys() or old["epochs_scale"] != new["epochs_scale"]:
        return False
    scale = new["epochs_scale"]
    before, after = ConfigDict(old[name]), ConfigDict(new[name])
    end = num_epochs(before, scale)

    def fixed(settings: dict[str, Any], stage: ConfigDict) -> dict[str, Any]:
        drops = sorted(d for d in stage.get("lr_milestones", ()) if d * scale < end)
        rest = {k: v for k, v in stage.items() if k not in ("epochs", "lr_milestones")}
        return settings | {name: rest | {"drops": drops}}

    return num_epochs(after, scale) >= end and fixed(old, before) == fixed(new, after)
