"""The training loop, and the pretraining stages: instance recognition and local aggregation.

Everything that changes lives in the state and goes into the checkpoint; step s of a run is the
same whether the run was interrupted before it or not.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from flax import nnx
from jaxtyping import Array
from ml_collections import ConfigDict

from vcjax import carry_over, checkpoint, embed, mesh, metrics, processes, progress, settings
from vcjax import step as steps
from vcjax.clustering import kmeans, neighbors
from vcjax.data import clips, crashes
from vcjax.data.manifest import Manifest
from vcjax.data.marks import Marks
from vcjax.models import resnet3d
from vcjax.models.resnet3d import ResNet3D
from vcjax.prior import FisherVectors
from vcjax.step import Batch, Scalars, TrainState

log = logging.getLogger(__name__)


def load_model(config: ConfigDict, directory: Path) -> ResNet3D:
    """The network as the stage in `directory` left it. Raises FileNotFoundError before that."""
    graphdef, params, statistics = resnet3d.split(steps.new_model(config))
    restored = checkpoint.restore_part(
        directory / "checkpoints", {"params": params, "statistics": statistics}, alone=True
    )
    return nnx.merge(graphdef, restored["params"], restored["statistics"])


class Stage(NamedTuple):
    """What a training stage brings to the loop; its states are pytrees of arrays."""

    state: Any  # before the first step, and the template of its checkpoints
    take_over: Callable[[Any], Any]  # state -> the same with what another stage learned
    step: Callable[[Any, Batch, int], tuple[Any, Scalars]]
    batches: Callable[[int], Iterator[Batch]]  # from a step on
    begin_epoch: Callable[[Any, int], tuple[Any, Scalars]]  # state, epoch from 0
    end_epoch: Callable[[Any, int], tuple[Any, Scalars]]
    learning_rate: Callable[[Any, int], float]  # state, step


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
    devices = mesh.make()
    optimizer, learning_rate = steps.optimizer(stage, config.epochs_scale, steps_per_epoch)
    graphdef, state = steps.initial_state(config, optimizer, len(train), devices)
    train_step = steps.make(graphdef, optimizer, config, stage, len(train), devices)
    cluster = _clustering(stage, config, len(train), fisher, devices)
    carry_over.continue_with(
        train.video_ids,
        state,
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
        if not cluster or (epoch > 0 and stage.source == "idt"):
            return state, {}
        labels, sizes = cluster(state.bank)
        return state._replace(labels=labels), sizes

    def end_epoch(state: TrainState, epoch: int) -> tuple[TrainState, Scalars]:
        if (epoch + 1) % stage.validate_epochs and epoch + 1 < num_epochs:
            return state, {}
        return state, _validate(graphdef, state, config, train, test)

    training = Stage(
        state,
        take_over,
        train_step,
        lambda first: batches(name, config, train, num_epochs, first, devices, workdir),
        begin_epoch,
        end_epoch,
        lambda state, step: learning_rate(step),
    )
    loop(name, config, training, workdir, num_epochs=num_epochs, steps_per_epoch=steps_per_epoch)


def loop(
    name: str,
    config: ConfigDict,
    training: Stage,
    workdir: Path,
    *,
    num_epochs: int,
    steps_per_epoch: int,
) -> Any:
    """The state after all epochs, from the last checkpoint in `workdir/name` on.

    `name` is a stage of `config`, or a part STAGE/PART of one.
    """
    stage = config[name.split("/")[0]]
    num_steps = num_epochs * steps_per_epoch
    checkpoints = checkpoint.Checkpoints(workdir / name / "checkpoints")
    first = checkpoints.latest or 0
    if first:
        state = type(training.state)(**checkpoints.restore(training.state._asdict()))
        log.info("%s: continues from the checkpoint of step %d of %d", name, first, num_steps)
    else:
        state = training.take_over(training.state)
    writer = metrics.Writer(workdir, name, step=first)
    batches = training.batches(first)
    bar = progress.bar(desc=name, unit="step", total=num_steps, initial=first)
    window = _Window()
    with contextlib.closing(checkpoints), contextlib.closing(writer), bar:
        for step in range(first, num_steps):
            epoch, within = divmod(step, steps_per_epoch)
            if within == 0:
                state, scalars = training.begin_epoch(state, epoch)
                if scalars:
                    writer.write(step, scalars)
            state, scalars = training.step(state, next(batches), step)
            window.add(scalars)
            bar.update()
            done, epoch_ends = step + 1, within + 1 == steps_per_epoch
            if epoch_ends or done % config.log_steps == 0:
                scalars = window.close(stage.batch_size)
                _check(name, done, scalars, checkpoints.latest)
                rate = training.learning_rate(state, step)
                scalars |= {"epoch": done / steps_per_epoch, "learning_rate": rate}
                if epoch_ends:
                    state, more = training.end_epoch(state, epoch)
                    scalars |= more
                    window = _Window()  # its clock does not count validation
                writer.write(done, scalars)
                bar.set_postfix(loss=f"{scalars['loss']:.3f}", refresh=False)
            if done % (stage.checkpoint_steps or steps_per_epoch) == 0 or done == num_steps:
                checkpoints.save(done, state._asdict())
    return state


def num_steps_per_epoch(name: str, stage: ConfigDict, num_videos: int) -> int:
    """Whole batches among `num_videos`. Raises SettingsError for none, or uneven devices."""
    if stage.batch_size > num_videos:
        raise settings.SettingsError(
            f"a batch of {stage.batch_size} needs as many training videos, and there are "
            f"{num_videos}; set --config.{name}.batch_size"
        )
    if stage.batch_size % jax.device_count():
        raise settings.SettingsError(
            f"a batch of {stage.batch_size} does not divide among {jax.device_count()} devices; "
            f"set --config.{name}.batch_size"
        )
    return num_videos // stage.batch_size


def _clustering(
    stage: ConfigDict,
    config: ConfigDict,
    num_videos: int,
    fisher: FisherVectors | None,
    devices: jax.sharding.Mesh,
) -> Callable[[Array], tuple[Array, Scalars]] | None:
    """bank -> labels [runs, n] and what to log of them; None for an objective without clusters."""
    if stage.objective != "local_aggregation":
        return None
    # K-means of the whole in every process, where there are several
    cluster_devices = devices if jax.process_count() == 1 else mesh.local()
    vectors = fisher.vectors if fisher else np.zeros((num_videos, 0), np.float32)
    points: dict[str, Callable[[Array], Array | np.ndarray]] = {
        "idt": lambda bank: vectors,
        "bank": lambda bank: bank[:num_videos],
        "joint": lambda bank: kmeans.joint_space(
            bank[:num_videos], vectors, weight=config.clusters.fisher_weight
        ),
    }
    if stage.source not in points:
        raise settings.SettingsError(
            f"source of the clusters is {stage.source!r}; use one of {sorted(points)}"
        )
    known = fisher.has_vector if fisher and stage.source == "idt" else None
    num_points = num_videos if known is None else int(known.sum())
    count = settings.num_clusters(config.clusters.num_clusters, num_points)
    seeds = [config.clusters.seed + run for run in range(config.clusters.num_runs)]

    def cluster(bank: Array) -> tuple[Array, Scalars]:
        labels = kmeans.fit_runs(
            points[stage.source](mesh.gather(bank)),
            seeds=seeds,
            num_clusters=count,
            num_iterations=config.clusters.num_iterations,
            known=known,
            mesh=cluster_devices,
        )
        sizes = np.bincount(labels[0])
        scalars = {
            "clusters": int((sizes > 0).sum()),
            "largest_cluster": int(sizes.max()),
            "median_cluster": float(np.median(sizes)),
        }
        return jax.device_put(labels, mesh.replicated(devices)), scalars

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

    rows = mesh.rows(devices)
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


def _validate(
    graphdef: nnx.GraphDef, state: TrainState, config: ConfigDict, train: Manifest, test: Manifest
) -> Scalars:
    """Top-1 of the nearest bank row's label, for each label column that both sides know."""
    if not len(test):
        return {}
    bank = mesh.gather(state.bank)[: len(train)]
    if not processes.is_first():  # which alone writes what comes out
        return {}
    here = jax.tree.map(lambda x: x.addressable_data(0), (state.params, state.statistics))
    model = nnx.merge(graphdef, *here, copy=True)
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


def _check(name: str, step: int, scalars: Scalars, checkpoint_step: int | None) -> None:
    if not np.isfinite(scalars["loss"]):
        last = f"the checkpoint of step {checkpoint_step}" if checkpoint_step else "no checkpoint"
        raise FloatingPointError(
            f"{name}: the loss is {scalars['loss']} at step {step}; there is {last} before it. "
            f"Lower --config.{name.split('/')[0]}.learning_rate and run again."
        )


class _Window:
    """Scalars since the last log, left on the device until they are wanted, and the time."""

    def __init__(self) -> None:
        self._scalars: list[Scalars] = []
        self._begin = time.monotonic()

    def add(self, scalars: Scalars) -> None:
        self._scalars.append(scalars)

    def close(self, batch_size: int) -> Scalars:
        """Means of the scalars, clips a second; begins anew."""
        host = jax.device_get(self._scalars)
        means: Scalars = {k: float(np.mean([s[k] for s in host])) for k in host[0]}
        seconds = time.monotonic() - self._begin
        means["clips_per_second"] = round(len(host) * batch_size / seconds, 2)
        self.__init__()  # type: ignore[misc]
        return means
