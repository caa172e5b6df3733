"""The stages that transfer a network to labeled videos: finetuning and few-shot probes."""

import functools
import hashlib
import itertools
import logging
from collections.abc import Collection as Names
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vcjax import evaluation, settings
from vcjax.data import manifest as manifests
from vcjax.data.manifest import Manifest
from vcjax.evaluation import measures, transfer_results
from vcjax.evaluation.outputs import ModelOutputs
from vcjax.evaluation.protocol import TrainTest
from vcjax.ingest.collection import Collection
from vcjax.ingest.ingest import ingest
from vcjax.ingest.plan import Options
from vcjax.pipeline import workdir as workdirs
from vcjax.pipeline.evaluate import model_name
from vcjax.runtime import filesystem, hosts
from vcjax.runtime.stage_cache import Stage
from vcjax.training import transfer

log = logging.getLogger(__name__)

_SCRATCH = "scratch"  # random weights


def finetune_stage(name: str, config: ConfigDict, workdir: Path, videos: workdirs.Videos) -> Stage:
    """Return the stage that finetunes on each split of labeled videos into `result.json`.

    If the setting `starts` lists several networks, each of them is finetuned on each split.
    """
    stage = config[name]
    starts = tuple(stage.starts) or (stage.init_from or _SCRATCH,)
    trained = tuple(start for start in starts if start != _SCRATCH)
    inputs = (*workdirs.video_stages(config), *trained)
    depends = _transfer_settings(name, config) | {"epochs_scale": config.epochs_scale}

    def check(running: Names[str]) -> None:
        manifest = _listed(name, trained, config, workdir, videos, running)
        label, group, splits = _splits(stage, config, manifest)
        for rows in splits.values():
            train = transfer.sides(stage, config, manifest, rows, label, group).train
            settings.resolve(config, name, len(train), num_devices=jax.device_count())

    def run(directory: Path) -> None:
        manifest, label, group, splits = _labeled(stage, config, directory, workdir)
        results = {}
        for (split, rows), start in itertools.product(splits.items(), starts):
            network = model_name(start, config)
            key = f"{network}-{split}" if stage.starts else split
            results[key] = transfer.finetune_split(
                f"{name}/{key}",
                _unfrozen(name, config) if start == _SCRATCH and stage.starts else config,
                manifest,
                rows,
                label,
                group=group,
                start=None if start == _SCRATCH else workdirs.network_directory(workdir, start),
                workdir=workdir,
            )
            results[key] |= {"network": network, "split": split}
            log.info("%s/%s: accuracy %.1f%%", name, key, 100 * results[key]["accuracy"])
        _write_result(directory, name, transfer_results.result(results, label=label))

    return Stage(
        name,
        depends,
        inputs,
        run,
        together=True,
        networks=trained,
        check=check,
        extends=functools.partial(settings.only_trains_longer, name),
    )


def few_shot_stage(name: str, config: ConfigDict, workdir: Path, videos: workdirs.Videos) -> Stage:
    """Return the stage that probes frozen features on each split into `result.json`."""
    stage = config[name]
    inputs = (
        *workdirs.video_stages(config),
        *([stage.init_from] if stage.init_from else []),
    )
    depends = _transfer_settings(name, config)

    def check(running: Names[str]) -> None:
        trained = (stage.init_from,) if stage.init_from else ()
        _splits(stage, config, _listed(name, trained, config, workdir, videos, running))

    def run(directory: Path) -> None:
        manifest, label, _, splits = _labeled(stage, config, directory, workdir)
        network = stage.init_from or "scratch"
        models = {network: workdirs.network(config, workdir, stage.init_from)}
        embedded = workdirs.embedded(workdir, name, models, manifest, config)[network]
        unclustered = np.zeros((1, len(manifest)), np.int32)
        output = ModelOutputs(embedded.embedding, embedded.pooled, unclustered)
        values = np.array(manifest.labels[label])
        results = {}
        for split, rows in splits.items():
            fold = TrainTest(rows.train, rows.test, within_test=False)
            measured = measures.measure(
                output, values, [fold], workdirs.probing(config), seed=config.seed
            )
            results[split] = {k: getattr(measured, k) for k in measures.NAMES}
            results[split]["accuracy"] = measured.linear
        _write_result(
            directory, name, transfer_results.result(results, label=label, start=stage.init_from)
        )

    return Stage(name, depends, inputs, run, networks=(stage.init_from,), check=check)


def _unfrozen(name: str, config: ConfigDict) -> ConfigDict:
    """Return a copy of `config` in which the stage trains all layers."""
    copied = config.copy_and_resolve_references()
    copied[name].frozen_stages = 0
    return copied


def _listed(
    name: str,
    starts: tuple[str, ...],
    config: ConfigDict,
    workdir: Path,
    videos: workdirs.Videos,
    running: Names[str],
) -> Manifest:
    """Return the labeled videos of a stage before they are verified, and check its starts."""
    stage = config[name]
    for start in set(starts) - set(running):
        workdirs.check_network(config, workdir, name, start)
    if not stage.manifest:
        return videos(running)
    listed = manifests.read(stage.manifest)
    if workdirs.is_stored(listed):
        workdirs.check_side(config, workdirs.stored_side(listed), stage.manifest)
    return listed


def _labeled(stage: ConfigDict, config: ConfigDict, directory: Path, workdir: Path) -> Any:
    """Return the labeled videos, their class column, their group column or "", and the splits."""
    manifest = workdirs.manifest(workdir)
    if stage.manifest:
        manifest = _read(stage.manifest, config, directory, workdir)
    return manifest, *_splits(stage, config, manifest)


def _read(source: str, config: ConfigDict, directory: Path, workdir: Path) -> Manifest:
    """Return the valid videos of `source`, which are read into a collection of their own.

    Stages that read the same source share the collection. Stored videos are used as they are.
    """
    listed = manifests.read(source)
    if workdirs.is_stored(listed):
        num_workers = workdirs.num_workers(config)
        return transfer.verified(config, source, directory=directory, num_workers=num_workers)
    name = hashlib.sha256(filesystem.absolute(source).encode()).hexdigest()[:8]
    folder = workdir / "collections" / f"{Path(source).stem}-{name}"
    options = Options(workdirs.num_workers(config), config.data.on_error)
    hosts.run_on_primary(
        lambda: (
            ingest(
                listed,
                folder,
                workdirs.pictures(config, folder),
                (),
                options,
                training=(),
                max_changed_share=config.data.max_changed_share,
            )
            and None
        )
    )
    return Collection.open(folder).manifest()


def _splits(stage: ConfigDict, config: ConfigDict, manifest: Manifest) -> Any:
    """Return the class column of `manifest`, its group column or "", and its splits."""
    label = transfer.label_column(manifest, stage.label)
    group = config.data.group
    if stage.manifest or group == "auto":
        group = next((c for c in settings.GROUP_COLUMNS if c in manifest.labels), "")
    splits = transfer.splits(manifest, label, tuple(stage.splits), group=group, config=config)
    return label, group, splits


def _write_result(directory: Path, name: str, result: dict[str, Any]) -> None:
    if not hosts.is_primary():
        return
    evaluation.write(result, directory / "result.json")
    log.info("%s: accuracy %.1f%% on held-out videos", name, 100 * result["accuracy"])


def _transfer_settings(name: str, config: ConfigDict) -> dict[str, Any]:
    source = config[name].manifest
    depends = {k: config[k].to_dict() for k in (name, "clip", "model", "evaluation")}
    del depends["evaluation"]["labels"]  # of the stages evaluate and svm
    depends |= {"seed": config.seed, "data": workdirs.data_settings(config)}
    return depends | {"source": manifests.signature(source) if source else ""}
