"""Access of the stages to results of earlier stages in the folder of a run."""

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from fisher.vectors import FisherVectors
from vcjax import evaluation, settings
from vcjax.data import manifest as manifests
from vcjax.data.manifest import Manifest
from vcjax.runtime import stage_record

# Networks are imported by the functions that use them: runs without training do not need Flax.
if TYPE_CHECKING:
    from vcjax.models.resnet3d import ResNet3D

# names of the stages that run before a stage -> videos of the run; before the stage `manifest` has
# run, all listed videos, as if every one of them were valid
Videos = Callable[[Collection[str]], Manifest]

# Settings of data.* that do not change the results.
_EXECUTION = ("num_threads", "num_workers", "max_corrupt_fraction", "max_changed_share")


def manifest(workdir: Path) -> Manifest:
    """Return the videos of the run."""
    return manifests.load(workdir / "manifest" / "manifest.tsv")


def fisher_vectors(workdir: Path, manifest: Manifest) -> FisherVectors:
    """Return the Fisher vectors of the videos of `manifest`, in their order."""
    return FisherVectors.load(workdir / "fisher" / "vectors.npz").of(manifest.video_ids)


def num_vectors(workdir: Path, manifest: Manifest) -> int:
    """Return the number of videos of `manifest` that have a Fisher vector."""
    return int(fisher_vectors(workdir, manifest).has_vector.sum())


def num_workers(config: ConfigDict) -> int:
    """Return the number of processes that render, verify and extract."""
    return config.num_workers or os.cpu_count() or 1


def data_settings(config: ConfigDict) -> dict[str, Any]:
    """Return the settings of `data` that the results depend on."""
    return {k: v for k, v in config.data.to_dict().items() if k not in _EXECUTION}


def network(config: ConfigDict, workdir: Path, stage: str) -> "ResNet3D":
    """Return the trained network of `stage`, or a randomly initialized network for ""."""
    from vcjax.training import networks

    if not stage:
        return networks.new_model(config)
    directory = network_directory(workdir, stage)
    if stage in settings.FINETUNING_STAGES:
        return networks.load_backbone(networks.new_model(config), directory)
    return networks.load_model(config, directory)


def network_directory(workdir: Path, stage: str) -> Path:
    """Return the folder that contains the checkpoints of a stage's network.

    A finetuning stage has one network per split; the folder of the first split is returned.

    Raises:
        FileNotFoundError: If a finetuning stage has no checkpoint.
    """
    if stage not in settings.FINETUNING_STAGES:
        return workdir / stage
    checkpoints = sorted((workdir / stage).glob("*/checkpoints"))
    if not checkpoints:
        raise FileNotFoundError(f"no checkpoint in {workdir / stage}; run the stage {stage} first")
    return checkpoints[0].parent


def check_network(config: ConfigDict, workdir: Path, name: str, start: str) -> None:
    """Raise SettingsError if the network of the stage `start` differs from `config.model`.

    Finetuning replaces the last layer, so the dimension of the embedding may differ.
    """
    recorded = stage_record.read(workdir / start).get("settings", {}).get("model", {})
    is_classifier = {name, start} & set(settings.FINETUNING_STAGES)
    for key in ("depth", "width", *(() if is_classifier else ("embedding_dim",))):
        if recorded.get(key, config.model[key]) != config.model[key]:
            raise settings.SettingsError(
                f"{name} needs the network of {start}, whose model.{key} is {recorded[key]}, not "
                f"{config.model[key]}; set --config.model.{key}={recorded[key]}, or train {start} "
                "again"
            )


def embedded(models: dict[str, Any], manifest: Manifest, config: ConfigDict) -> dict[str, Any]:
    """Return {name: `inference.Features`} of the videos for each of `models`.

    Networks trained on labels have no embedding; their normalized pooled features serve as one.
    """
    from vcjax import inference
    from vcjax.evaluation import probes

    features = inference.videos(
        models, manifest, config, clips_per_video=config.evaluation.clips_per_video
    )
    for name in features.keys() & set(settings.FINETUNING_STAGES):
        pooled = features[name].pooled
        features[name] = inference.Features(probes.unit(pooled), pooled)
    return features


def probing(config: ConfigDict) -> evaluation.ProbeSettings:
    """Return the settings of the probes, from the section `evaluation`."""
    values = config.evaluation.to_dict()
    return evaluation.ProbeSettings(**{k: values[k] for k in evaluation.ProbeSettings._fields})
