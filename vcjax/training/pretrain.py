"""The pretraining stages: instance recognition and local aggregation."""

import functools
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array
from ml_collections import ConfigDict

from fisher.vectors import FisherVectors
from vcjax import inference, settings
from vcjax.clustering import kmeans, neighbors
from vcjax.data.manifest import Manifest
from vcjax.objectives import inverted_file
from vcjax.runtime import hosts, sharding
from vcjax.training import batches, changed_videos, cluster_labels, diagnostics, loop
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
    """Trains stage `name` of `config` on `train`, into `workdir/name`, from its last checkpoint."""
    stage = config[name]
    steps_per_epoch = batches.num_steps_per_epoch(name, stage, len(train))
    num_epochs = settings.num_epochs(stage, config.epochs_scale)
    devices = sharding.make()
    optimizer, learning_rate = steps.optimizer(stage, config.epochs_scale, steps_per_epoch)
    graphdef, state = steps.initial_state(config, optimizer, len(train), devices)
    train_step = steps.make(graphdef, optimizer, config, stage, len(train), devices)
    cluster = cluster_labels.clustering(stage, config, len(train), fisher, devices)
    collapse = diagnostics.Collapse(name)
    if stage.get("num_candidates"):
        count = settings.num_clusters(config.clusters.num_clusters, len(train))
        state = state._replace(cells=inverted_file.empty(count, state.bank, devices))
    changed_videos.remap_checkpoint(
        train.video_ids,
        _stored(state),
        workdir / name / "checkpoints",
        batch_size=stage.batch_size,
        max_share=config.data.max_changed_share,
        seed=config.seed,
    )

    def take_over(state: TrainState) -> TrainState:
        if not stage.init_from:
            return state
        log.info("%s: starts from the weights and bank of %s", name, stage.init_from)
        part = {"params": state.params, "statistics": state.statistics, "bank": state.bank}
        found = changed_videos.restore(
            workdir / stage.init_from / "checkpoints", part, train.video_ids, seed=config.seed
        )
        return state._replace(**found)

    def begin_epoch(state: TrainState, epoch: int) -> tuple[TrainState, Scalars]:
        if not cluster or (epoch > 0 and stage.source == "idt" and not stage.num_candidates):
            return state, {}
        labels, cells, scalars = cluster(state.bank)
        collapse.check_clusters(scalars["largest_cluster"], len(train))
        return state._replace(labels=labels, cells=cells), scalars

    def end_epoch(state: TrainState, epoch: int) -> tuple[TrainState, Scalars]:
        scalars = {"bank_mean_cosine": diagnostics.similarity(state.bank, len(train))}
        collapse.check_embeddings(scalars["bank_mean_cosine"])
        if (epoch + 1) % stage.validate_epochs and epoch + 1 < num_epochs:
            return state, scalars
        return state, scalars | _validate(graphdef, state, config, train, test)

    training = loop.Stage(
        state,
        take_over,
        train_step,
        lambda first: batches.training_batches(
            name, config, train, num_epochs, first, devices, workdir
        ),
        begin_epoch,
        end_epoch,
        lambda state, step: learning_rate(step),
        train.video_ids,
        _stored,
        functools.partial(_restored, num_videos=len(train), devices=devices),
        score=_mean_accuracy,
    )
    loop.run(
        name, config, training, workdir, num_epochs=num_epochs, steps_per_epoch=steps_per_epoch
    )


def _stored(state: TrainState) -> dict[str, Any]:
    """What does not depend on the devices; of cells the centroids, and a last row of the labels."""
    found = state._asdict()
    if state.cells is not None:
        found["cells"] = state.cells.centroids
        found["labels"] = _with_row(state.labels, state.cells.labels)
    return found


@jax.jit
def _with_row(labels: Array, row: Array) -> Array:
    return jnp.concatenate([labels, row[None]])


def _restored(
    first: TrainState, found: dict[str, Any], *, num_videos: int, devices: jax.sharding.Mesh
) -> TrainState:
    """The state of what `_stored` gave; the padding of the bank is zero anyway."""
    is_video = jnp.arange(first.labels.shape[1]) < num_videos
    labels = jnp.where(is_video, found["labels"], kmeans.UNLABELLED)
    if first.cells is not None:
        cells = inverted_file.make(found["cells"], labels[-1], devices)
        found, labels = found | {"cells": cells}, labels[:-1]
    return TrainState(**found | {"labels": labels})


def _mean_accuracy(scalars: Scalars) -> float | None:
    """Of the label columns that `_validate` asked for."""
    found = [float(v) for k, v in scalars.items() if k.startswith("validation/")]
    return float(np.mean(found)) if found else None


def _validate(
    graphdef: nnx.GraphDef, state: TrainState, config: ConfigDict, train: Manifest, test: Manifest
) -> Scalars:
    """Top-1 of the nearest bank row's label, for each label column that both sides know."""
    if not len(test):
        return {}
    bank = sharding.gather(state.bank)[: len(train)]
    if not hosts.is_primary():  # which alone writes what comes out
        return {}
    model = nnx.merge(graphdef, *sharding.local_copy((state.params, state.statistics)), copy=True)
    views = inference.videos({"": model}, test, config, clips_per_video=1, skip_bad=True)
    embedding = views[""].embedding
    seen = embedding.any(axis=1)  # not of files that have vanished since
    nearest = np.asarray(neighbors.nearest(embedding, bank))[:, 0]
    scalars = {}
    for column in train.own_labels:
        known, wanted = np.array(train.labels[column]), np.array(test.labels[column])
        if set(known) & set(wanted) - {""}:
            scalars[f"validation/{column}"] = float(np.mean((known[nearest] == wanted)[seen]))
    return scalars
