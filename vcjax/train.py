"""The pretraining stages: instance recognition and local aggregation."""

import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array
from ml_collections import ConfigDict

from vcjax import carry_over, embed, loop, settings, watch
from vcjax import step as steps
from vcjax.clustering import kmeans, neighbors
from vcjax.data import clips, crashes
from vcjax.data.manifest import Manifest
from vcjax.data.marks import Marks
from vcjax.models import resnet3d
from vcjax.models.resnet3d import ResNet3D
from vcjax.objectives import probing
from vcjax.prior import FisherVectors
from vcjax.runtime import checkpoint, hosts, sharding
from vcjax.step import Batch, Scalars, TrainState

log = logging.getLogger(__name__)


def load_model(config: ConfigDict, directory: Path, *, best: bool = False) -> ResNet3D:
    """The network as the stage in `directory` left it, or as it was at its best validation.

    Raises FileNotFoundError before that.
    """
    graphdef, params, statistics = resnet3d.split(steps.new_model(config))
    part = {"params": params, "statistics": statistics}
    restored = checkpoint.restore_part(directory / "checkpoints", part, alone=True, best=best)
    return nnx.merge(graphdef, restored["params"], restored["statistics"])


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
    steps_per_epoch = num_steps_per_epoch(name, stage, len(train))
    num_epochs = settings.num_epochs(stage, config.epochs_scale)
    devices = sharding.make()
    optimizer, learning_rate = steps.optimizer(stage, config.epochs_scale, steps_per_epoch)
    graphdef, state = steps.initial_state(config, optimizer, len(train), devices)
    train_step = steps.make(graphdef, optimizer, config, stage, len(train), devices)
    cluster = _clustering(stage, config, len(train), fisher, devices)
    collapse = watch.Collapse(name)
    if stage.get("num_candidates"):
        count = settings.num_clusters(config.clusters.num_clusters, len(train))
        state = state._replace(cells=probing.empty(count, state.bank, devices))
    carry_over.continue_with(
        train.video_ids,
        _stored(state),
        workdir / name / "checkpoints",
        batch_size=stage.batch_size,
        max_share=config.data.max_changed_share,
        seed=config.seed,
    )

    def take_over(state: TrainState) -> TrainState:
        if not stage.start:
            return state
        log.info("%s: starts from the weights and bank of %s", name, stage.start)
        part = {"params": state.params, "statistics": state.statistics, "bank": state.bank}
        found = carry_over.restore(
            workdir / stage.start / "checkpoints", part, train.video_ids, seed=config.seed
        )
        return state._replace(**found)

    def begin_epoch(state: TrainState, epoch: int) -> tuple[TrainState, Scalars]:
        if not cluster or (epoch > 0 and stage.source == "idt" and not stage.num_candidates):
            return state, {}
        labels, cells, scalars = cluster(state.bank)
        collapse.see_clusters(scalars["largest_cluster"], len(train))
        return state._replace(labels=labels, cells=cells), scalars

    def end_epoch(state: TrainState, epoch: int) -> tuple[TrainState, Scalars]:
        scalars = {"similarity": watch.similarity(state.bank, len(train))}
        collapse.see_embeddings(scalars["similarity"])
        if (epoch + 1) % stage.validate_epochs and epoch + 1 < num_epochs:
            return state, scalars
        return state, scalars | _validate(graphdef, state, config, train, test)

    training = loop.Stage(
        state,
        take_over,
        train_step,
        lambda first: batches(name, config, train, num_epochs, first, devices, workdir),
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


def num_steps_per_epoch(name: str, stage: ConfigDict, num_videos: int) -> int:
    """Whole batches among `num_videos`. Raises SettingsError for none, or uneven devices."""
    if stage.batch_size > num_videos:
        raise settings.SettingsError(
            f"a batch of {stage.batch_size} needs as many training videos, and there are "
            f"{num_videos}; set --config.{name}.batch_size"
        )
    parts = stage.get("accumulation_steps", 1)
    if stage.batch_size % (jax.device_count() * parts):
        in_parts = f" in {parts} parts" if parts > 1 else ""
        raise settings.SettingsError(
            f"a batch of {stage.batch_size}{in_parts} does not divide among {jax.device_count()} "
            f"devices; set --config.{name}.batch_size"
        )
    return num_videos // stage.batch_size


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
        cells = probing.make(found["cells"], labels[-1], devices)
        found, labels = found | {"cells": cells}, labels[:-1]
    return TrainState(**found | {"labels": labels})


def _clustering(
    stage: ConfigDict,
    config: ConfigDict,
    num_videos: int,
    fisher: FisherVectors | None,
    devices: jax.sharding.Mesh,
) -> Callable[[Array], tuple[Array, probing.Cells | None, Scalars]] | None:
    """bank -> labels [runs, rows], cells if B_i is sought in them, what to log of both.

    None for an objective without clusters.
    """
    if stage.objective != "local_aggregation":
        return None
    if stage.source not in ("idt", "bank", "joint"):
        raise settings.SettingsError(
            f"source of the clusters is {stage.source!r}; use one of bank, idt, joint"
        )
    vectors: Any = fisher.vectors if fisher else np.zeros((num_videos, 0), np.float32)
    if stage.source == "joint":
        vectors = sharding.put_rows(config.clusters.fisher_weight * vectors, devices)
    points: dict[str, Callable[[Array], list[Any]]] = {
        "idt": lambda bank: [vectors],
        "bank": lambda bank: [bank],
        "joint": lambda bank: [bank, vectors],  # side by side (Sec. 3.3)
    }
    known = fisher.has_vector if fisher and stage.source == "idt" else np.ones(num_videos, bool)
    count = settings.num_clusters(config.clusters.num_clusters, int(known.sum()))
    seeds = [config.clusters.seed + run for run in range(config.clusters.num_runs)]

    options = {
        "num_clusters": count,
        "num_iterations": config.clusters.num_iterations,
        "mesh": devices,
    }

    def cluster(bank: Array) -> tuple[Array, probing.Cells | None, Scalars]:
        runs = kmeans.fit_runs(points[stage.source](bank), seeds=seeds, known=known, **options)
        sizes, inertia = np.asarray(runs.sizes[0]), np.asarray(runs.inertia[0])
        steps_down = " ".join(f"{value:.4g}" for value in inertia)
        log.debug("K-means, %s: %d clusters, inertia %s", stage.source, count, steps_down)
        scalars = {
            "clusters": int((sizes > 0).sum()),
            "largest_cluster": int(sizes.max()),
            "median_cluster": float(np.median(sizes)),
            "inertia": float(inertia[-1]),
        }
        if not stage.num_candidates:
            return runs.labels, None, scalars
        if stage.source == "bank":
            cells = probing.make(runs.centroids[0], runs.labels[0], devices)
        else:
            everywhere = np.ones(num_videos, bool)
            of_all = settings.num_clusters(config.clusters.num_clusters, num_videos)
            of_bank = options | {"num_clusters": of_all}
            found = kmeans.fit(bank, seed=seeds[0], known=everywhere, **of_bank)
            cells = probing.make(found.centroids, found.labels, devices)
        scalars["neighbor_recall"] = probing.recall(
            bank,
            cells,
            num_rows=num_videos,
            num_background=settings.num_background(stage.num_background, num_videos),
            num_candidates=stage.num_candidates,
            mesh=devices,
        )
        return runs.labels, cells, scalars

    return cluster


def batches(
    name: str,
    config: ConfigDict,
    train: Manifest,
    num_epochs: int,
    first: int,
    devices: jax.sharding.Mesh,
    workdir: Path,
) -> Iterator[Batch]:
    """Batches from step `first` on, each array split over the devices, each process its part.

    `name` is a stage of `config`, or a part STAGE/PART of one.
    """
    stage, num_parts = config[name.split("/")[0]], jax.process_count()

    def dataset(excluded: frozenset[int], marks: Marks) -> grain.MapDataset:
        parts = clips.training_clips(
            train,
            num_frames=config.clip.num_frames,
            stride=config.clip.stride,
            side=config.clip.side,
            scales=stage.scales if "scales" in stage else config.clip.scales,
            batch_size=stage.batch_size // num_parts,
            num_epochs=1,
            seed=config.seed,
            excluded=excluded,
            marks=marks,
        )
        # a batch is that of one process, cut: row for row the same for any number of them
        num_whole = len(train) // stage.batch_size * num_parts
        own = parts[:num_whole][jax.process_index() :: num_parts]
        return own.repeat(num_epochs)[first:]

    rows = sharding.rows(devices)
    batches = crashes.outlived(
        dataset,
        train,
        listed=workdir / "crashed.tsv",
        marks=workdir / name / f"reading.{jax.process_index()}",
        num_workers=config.data.num_workers,
        num_threads=config.data.num_threads,
    )
    for batch in clips.watched(batches, train, max_bad_share=config.data.max_bad_share):
        yield {k: jax.make_array_from_process_local_data(rows, v) for k, v in batch.items()}


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
    if not hosts.is_first():  # which alone writes what comes out
        return {}
    model = nnx.merge(graphdef, *sharding.here((state.params, state.statistics)), copy=True)
    views = embed.videos({"": model}, test, config, clips_per_video=1, skip_bad=True)
    embedding = views[""].embedding
    seen = embedding.any(axis=1)  # not of files that have vanished since
    nearest = np.asarray(neighbors.nearest(embedding, bank))[:, 0]
    scalars = {}
    for column in train.own_labels:
        known, wanted = np.array(train.labels[column]), np.array(test.labels[column])
        if set(known) & set(wanted) - {""}:
            scalars[f"validation/{column}"] = float(np.mean((known[nearest] == wanted)[seen]))
    return scalars
