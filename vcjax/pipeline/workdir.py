"""What the stages of a run left in its folder, and what they share."""

import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from fisher.vectors import FisherVectors
from vcjax import evaluation, inference, settings
from vcjax.data import manifest as manifests
from vcjax.data.manifest import Manifest
from vcjax.evaluation import probes
from vcjax.models.resnet3d import ResNet3D
from vcjax.training import networks

# Settings of data.* that change how a run goes, not what comes out.
_HOW = ("num_threads", "num_workers", "max_corrupt_fraction", "max_changed_share")


def manifest(workdir: Path) -> Manifest:
    """The videos of the run."""
    return manifests.load(workdir / "manifest" / "manifest.tsv")


def fisher_vectors(workdir: Path, manifest: Manifest) -> FisherVectors:
    """Those of the videos of `manifest`."""
    return FisherVectors.load(workdir / "fisher" / "vectors.npz").of(manifest.video_ids)


def num_workers(config: ConfigDict) -> int:
    """Processes that render, verify and extract."""
    return config.num_workers or os.cpu_count() or 1


def data_settings(config: ConfigDict) -> dict[str, Any]:
    """The settings of `data` that the outcome depends on."""
    return {k: v for k, v in config.data.to_dict().items() if k not in _HOW}


def network(config: ConfigDict, workdir: Path, stage: str) -> ResNet3D:
    """The network as `stage` left it, or for "" random."""

    if not stage:
        return networks.new_model(config)
    directory = network_directory(workdir, stage)
    if stage in settings.FINETUNING_STAGES:
        return networks.load_backbone(networks.new_model(config), directory)
    return networks.load_model(config, directory)


def network_directory(workdir: Path, stage: str) -> Path:
    """Where the checkpoints of a stage's network are; of a finetuned one's first split."""
    if stage not in settings.FINETUNING_STAGES:
        return workdir / stage
    found = sorted((workdir / stage).glob("*/checkpoints"))
    if not found:
        raise FileNotFoundError(f"no checkpoint in {workdir / stage}")
    return found[0].parent


def embedded(models: dict[str, Any], manifest: Manifest, config: ConfigDict) -> dict[str, Any]:
    """Each model's view of the videos; one trained on labels has its features as embedding."""
    found = inference.videos(
        models, manifest, config, clips_per_video=config.evaluation.clips_per_video
    )
    for name in found.keys() & set(settings.FINETUNING_STAGES):
        found[name] = inference.Features(probes.unit(found[name].pooled), found[name].pooled)
    return found


def probing(config: ConfigDict) -> evaluation.ProbeSettings:
    """How features are probed: `evaluation.Probing` of the settings."""
    wanted = config.evaluation.to_dict()
    return evaluation.ProbeSettings(**{k: wanted[k] for k in evaluation.ProbeSettings._fields})
