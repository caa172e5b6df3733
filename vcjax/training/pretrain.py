"""The pretraining stages: instance recognition and local aggregation."""

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array
from ml_collections import ConfigDict

from fisher.vectors import FisherVectors
from vcjax import inference, settings
from vcjax.clustering import kmeans, neighbors
from vcjax.data import clusters as clusters_table
from vcjax.data.manifest import Manifest
from vcjax.objectives import inverted_file
from vcjax.runtime import hosts, sharding
from vcjax.training import (
    batches,
    changed_videos,
    cluster_labels,
    diagnostics,
    fisher_bank,
    loop,
)
from vcjax.training import step as steps
from vcjax.training.step import Scalars, TrainState

log = logging.getLogger(__name__)


def pretrain(
    name: str,
    config: ConfigDict,
    *,
    train: Manifest,
    test: Manifest,
    fisher: FisherVectors | None,
    workdir: Path,
) -> None:
    """Train the stage `name` of `config` in `workdir/name`, resuming from its last checkpoint.

    Args:
      name: a section of `config` with an objective.
      config: the settings of the run.
      train: videos to train on, by row of the bank.
      test: held-out videos for validation; may be empty.
      fisher: Fisher vectors of `train` for clusters from IDT; None for other stages.
      workdir: folder of the run.
    """
    stage, num_videos = config[name], len(train)
    num_points = int(fisher.has_vector.sum()) if fisher and _clusters_idt(stage) else num_videos
    sizes = settings.resolve(
        config, name, num_videos, num_points=num_points, num_devices=jax.device_count()
    )
    devices = sharding.make()
    optimizer, learning_rate = steps.optimizer(stage, config.epochs_scale, sizes.steps_per_epoch)
    graphdef, state = _initial_state(config, stage, optimizer, num_videos, sizes, devices)
    train_step = steps.make(
        graphdef,
        optimizer,
        config,
        stage,
        num_videos,
        devices,
        num_background=sizes.num_background,
    )
    clustering = _clustering(config, stage, fisher, num_videos, sizes, devices)
    collapse = diagnostics.Collapse(name)

    with loop.training_run(
        name,
        config,
        workdir,
        video_ids=train.video_ids,
        num_epochs=sizes.num_epochs,
        steps_per_epoch=sizes.steps_per_epoch,
        learning_rate=lambda state, step: learning_rate(step),
        stored=_stored,
    ) as run:
        if run.resumes:
            state = _restored(state, run.restore(_stored(state)), num_videos, devices)
        elif stage.init_from:
            state = _initialize_from(state, name, config, train, workdir)
        if fisher is not None and stage.get("bank") == "fisher":
            state = state._replace(bank=fisher_bank.fill(state.bank, fisher, devices))
        clips = batches.training_batches(
            name, config, train, sizes.num_epochs, run.step, devices, workdir
        )
        for epoch in run.epochs():
            if clustering and run.begins_epoch and (epoch == 0 or _clusters_change(stage)):
                with run.interruptible():
                    clusters = clustering.cluster(state.bank)
                state = state._replace(labels=clusters.labels, cells=clusters.cells)
                collapse.check_clusters(clusters.scalars["largest_cluster"], num_videos)
                run.log(clusters.scalars)
            for batch in run.batches(clips):
                with run.dispatching():
                    state, scalars = train_step(state, batch, run.step)
                run.end_step(state, scalars, batch["index"])
            with run.interruptible():
                scalars = {"bank_mean_cosine": diagnostics.mean_cosine(state.bank, num_videos)}
                collapse.check_embeddings(scalars["bank_mean_cosine"])
                if (epoch + 1) % stage.validate_epochs == 0 or epoch + 1 == sizes.num_epochs:
                    scalars |= _validate(graphdef, state, config, train, test)
            run.end_epoch(scalars, score=_mean_accuracy(scalars))
    if clustering:
        table = clustering.table(f"training/{name}", train.video_ids, state.labels, state.bank)
        if hosts.is_primary():
            clusters_table.write(workdir / name / clusters_table.FILE, [table])


def checkpoint_template(name: str, config: ConfigDict, num_videos: int) -> dict[str, Any]:
    """Return the arrays of a checkpoint of the stage `name`, with their shapes and shardings.

    Raises:
      SettingsError: if the settings do not fit the number of videos.
    """
    stage, devices = config[name], sharding.make()
    sizes = settings.resolve(config, name, num_videos, num_devices=jax.device_count())
    optimizer, _ = steps.optimizer(stage, config.epochs_scale, sizes.steps_per_epoch)
    return _stored(_initial_state(config, stage, optimizer, num_videos, sizes, devices)[1])


def _initial_state(
    config: ConfigDict,
    stage: ConfigDict,
    optimizer: optax.GradientTransformation,
    num_videos: int,
    sizes: settings.Sizes,
    devices: jax.sharding.Mesh,
) -> tuple[nnx.GraphDef, TrainState]:
    graphdef, state = steps.initial_state(config, optimizer, num_videos, devices)
    if stage.get("num_candidates"):
        cells = inverted_file.empty(sizes.num_cells, state.bank, devices)
        state = state._replace(cells=cells)
    return graphdef, state


def _clusters_idt(stage: ConfigDict) -> bool:
    return stage.get("source") == "idt"


def _clustering(
    config: ConfigDict,
    stage: ConfigDict,
    fisher: FisherVectors | None,
    num_videos: int,
    sizes: settings.Sizes,
    devices: jax.sharding.Mesh,
) -> cluster_labels.Clustering | None:
    if stage.objective != "local_aggregation":
        return None
    return cluster_labels.Clustering(
        stage,
        config.clusters,
        fisher,
        num_videos=num_videos,
        num_clusters=sizes.num_clusters,
        num_cells=sizes.num_cells,
        num_background=sizes.num_background,
        devices=devices,
    )


def _clusters_change(stage: ConfigDict) -> bool:
    """Return True if the labels or the inverted file depend on the bank."""
    return not _clusters_idt(stage) or bool(stage.num_candidates)


def _initialize_from(
    state: TrainState, name: str, config: ConfigDict, train: Manifest, workdir: Path
) -> TrainState:
    """Return `state` with the network and the bank of the stage that `name` starts from."""
    source = config[name].init_from
    log.info("%s: initialized from the weights and the bank of %s", name, source)
    part = {"params": state.params, "statistics": state.statistics, "bank": state.bank}
    restored = changed_videos.restore(
        workdir / source / "checkpoints", part, train.video_ids, seed=config.seed
    )
    return state._replace(**restored)


def _stored(state: TrainState) -> dict[str, Any]:
    """Return the arrays of a checkpoint, which do not depend on the number of devices.

    An inverted file is stored as its centroids and as an additional last row of the labels.
    """
    arrays = state._asdict()
    if state.cells is not None:
        arrays["cells"] = state.cells.centroids
        arrays["labels"] = _with_row(state.labels, state.cells.labels)
    return arrays


@jax.jit
def _with_row(labels: Array, row: Array) -> Array:
    return jnp.concatenate([labels, row[None]])


def _restored(
    first: TrainState, arrays: dict[str, Any], num_videos: int, devices: jax.sharding.Mesh
) -> TrainState:
    """Return the state of the arrays of a checkpoint; see `_stored`.

    `first` is a state on the current devices. Padding of the labels is restored here; padding of
    the bank is zero in the checkpoint.
    """
    is_video = jnp.arange(first.labels.shape[1]) < num_videos
    # With another sharding, the first step would be another program than the compiled one.
    masked = jax.jit(jnp.where, out_shardings=first.labels.sharding)
    labels = masked(is_video, arrays["labels"], kmeans.UNLABELLED)
    if first.cells is not None:
        cells = inverted_file.make(arrays["cells"], labels[-1], devices)
        arrays, labels = arrays | {"cells": cells}, labels[:-1]
    return TrainState(**arrays | {"labels": labels})


def _mean_accuracy(scalars: Scalars) -> float | None:
    """Return the mean validation accuracy over the label columns, or None without validation."""
    accuracies = [float(v) for k, v in scalars.items() if k.startswith("validation/")]
    return float(np.mean(accuracies)) if accuracies else None


def _validate(
    graphdef: nnx.GraphDef, state: TrainState, config: ConfigDict, train: Manifest, test: Manifest
) -> Scalars:
    """Return the top-1 accuracy of the label of the nearest bank row, for each shared column."""
    if not len(test):
        return {}
    bank = sharding.gather(state.bank)[: len(train)]
    if not hosts.is_primary():  # only the first process writes metrics
        return {}
    model = nnx.merge(graphdef, *sharding.local_copy((state.params, state.statistics)), copy=True)
    views = inference.videos({"": model}, test, config, clips_per_video=1, skip_bad=True)
    embedding = views[""].embedding
    decoded = embedding.any(axis=1)  # the row of a video that cannot be decoded is zero
    nearest = np.asarray(neighbors.nearest(embedding, bank))[:, 0]
    scalars = {}
    for column in train.own_labels:
        train_labels, test_labels = (np.array(m.labels[column]) for m in (train, test))
        if set(train_labels) & set(test_labels) - {""}:
            counted = decoded & (test_labels != "")
            scalars[f"validation/{column}"] = float(
                np.mean((train_labels[nearest] == test_labels)[counted])
            )
    return scalars
