"""Access of the stages to results of earlier stages in the folder of a run."""

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from fisher.vectors import FisherVectors
from vcjax import evaluation, settings
from vcjax.data import manifest as manifests
from vcjax.data import shards, video
from vcjax.data.manifest import Manifest
from vcjax.ingest.collection import Collection as VideoCollection
from vcjax.ingest.collection import Pictures
from vcjax.ingest.variant import Variant, variant_of
from vcjax.runtime import filesystem, stage_record

# Networks are imported by the functions that use them: runs without training do not need Flax.
if TYPE_CHECKING:
    from vcjax.models.resnet3d import ResNet3D

# names of the stages that run before a stage -> videos of the run; before the stage `manifest` has
# run, all listed videos, as if every one of them were valid
Videos = Callable[[Collection[str]], Manifest]

# Settings of data.* that do not change the results, or only by the frames of the stage `ingest`.
_EXECUTION = ("num_threads", "num_workers", "max_corrupt_fraction", "max_changed_share")
_FRAMES = ("side", "codec")
FEATURES = "features"  # folder of the kept features of frozen networks
_SAMPLE = 20  # stored videos whose size is read


def manifest(workdir: Path) -> Manifest:
    """Return the videos of the run: those of its collection, if it has one."""
    ingested = workdir / "ingest" / "manifest.tsv"
    return manifests.load(ingested if ingested.exists() else workdir / "manifest" / "manifest.tsv")


def is_stored(manifest: Manifest) -> bool:
    """Return True if the videos are frames in shards and not files."""
    return any(shards.parse(path) for path in manifest.paths)


def video_stages(config: ConfigDict) -> list[str]:
    """Return the stages that provide the videos."""
    return [name for name in ("manifest", "ingest") if name in config.stages]


def data_seed(config: ConfigDict) -> int:
    """Return the seed of all that belongs to the videos: rendering, split, Fisher vectors."""
    return config.seed if config.data.seed < 0 else config.data.seed


def collection_folder(config: ConfigDict, workdir: Path) -> Any:
    """Return the folder of the run's collection: a shared one, or a folder of the run."""
    if config.data.collection:
        return filesystem.path_of(config.data.collection)
    return workdir / "ingest" / "collection"


def has_collection(config: ConfigDict, workdir: Path) -> bool:
    """Return True if the collection of the run exists."""
    return VideoCollection.exists(collection_folder(config, workdir))


def collection(config: ConfigDict, workdir: Path) -> VideoCollection:
    """Return the collection of the run."""
    return VideoCollection.open(collection_folder(config, workdir))


def variant(config: ConfigDict) -> Variant:
    """Return the variant of Fisher vectors that the config describes."""
    return variant_of(config, seed=data_seed(config))


def pictures(config: ConfigDict, folder: Any) -> Pictures:
    """Return the encoding of the frames of the run's own collection in `folder`.

    It follows the clip unless `data.side` is set. Frames that are larger than the clip needs are
    kept.
    """
    required = Pictures(config.data.side or 2 * config.clip.side, config.data.codec)
    if config.data.side or not VideoCollection.exists(folder):
        return required
    stored = VideoCollection.open(folder).pictures
    return stored if stored.codec == required.codec and stored.side > required.side else required


def stored_side(manifest: Manifest) -> int:
    """Return the largest short side of some stored videos, in pixels."""
    some = manifest.paths[:: len(manifest) // _SAMPLE or 1]
    return max(min(video.declared_size(path)) for path in some)


def check_side(config: ConfigDict, side: int, source: str = "") -> None:
    """Raise SettingsError if a clip needs larger frames than the collection `source` has.

    Without `source` the collection is that of the run.
    """
    if config.clip.side <= side:
        return
    source = source or config.data.collection
    if source:
        remedy = f"`vcjax ingest VIDEOS {source} --side {2 * config.clip.side}` makes larger ones"
    else:
        source, remedy = "the run", f"--config.data.side={2 * config.clip.side} makes larger ones"
    raise settings.SettingsError(
        f"--config.clip.side={config.clip.side} needs frames whose short side has at least as many "
        f"pixels, and the frames of {source} have {side}; {remedy}"
    )


def fisher_vectors(config: ConfigDict, workdir: Path, manifest: Manifest) -> FisherVectors:
    """Return the Fisher vectors of the videos of `manifest`, in their order."""
    return collection(config, workdir).fisher_vectors(variant(config), manifest.video_ids)


def num_vectors(config: ConfigDict, workdir: Path, manifest: Manifest) -> int:
    """Return the number of videos of `manifest` that have a Fisher vector."""
    stored = collection(config, workdir)
    return int(stored.has_vector(variant(config), manifest.video_ids).sum())


def num_workers(config: ConfigDict) -> int:
    """Return the number of processes that render, verify and extract."""
    return config.num_workers or os.cpu_count() or 1


def data_settings(config: ConfigDict) -> dict[str, Any]:
    """Return the settings of `data` that the results depend on."""
    return {k: v for k, v in config.data.to_dict().items() if k not in _EXECUTION + _FRAMES}


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


def embedded(
    workdir: Path, owner: str, models: dict[str, Any], manifest: Manifest, config: ConfigDict
) -> dict[str, Any]:
    """Return {name: `inference.Features`} of the videos for each of `models`.

    Features that the stage `owner` or another one computed before are read from WORKDIR/features.
    Networks trained on labels have no embedding; their normalized pooled features serve as one.
    """
    from vcjax.evaluation import frozen, probes
    from vcjax.inference import Features

    features = frozen.features(
        workdir / FEATURES,
        owner,
        models,
        manifest,
        config,
        clips_per_video=config.evaluation.clips_per_video,
    )
    for name in features.keys() & set(settings.FINETUNING_STAGES):
        pooled = features[name].pooled
        features[name] = Features(probes.unit(pooled), pooled)
    return features


def probing(config: ConfigDict) -> evaluation.ProbeSettings:
    """Return the settings of the probes, from the section `evaluation`."""
    values = config.evaluation.to_dict()
    return evaluation.ProbeSettings(**{k: values[k] for k in evaluation.ProbeSettings._fields})
