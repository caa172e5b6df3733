"""One step of pretraining: augment, embed, evaluate the loss, update the network and the bank.

The loss reads the bank as it was before the step. All functions are pure functions of arrays; none
opens a file, decodes a video or reads a clock.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from vcjax.clustering import kmeans
from vcjax.data import augment
from vcjax.models import resnet3d
from vcjax.objectives import instance_recognition, inverted_file, local_aggregation, memory_bank
from vcjax.runtime import sharding
from vcjax.training import networks

Batch = dict[str, Array]
Scalars = dict[str, Any]


class TrainState(NamedTuple):
    """State of pretraining that a step updates and a checkpoint stores."""

    params: nnx.State
    statistics: nnx.State  # running mean and variance of batch normalization
    optimizer: Any
    bank: Float[Array, "rows d"]
    labels: Int[Array, "runs rows"]  # of the clusters; zeros before the first clustering
    cells: inverted_file.InvertedFile | None = None  # for an approximate B_i; None: exact


def optimizer(
    stage: ConfigDict, epochs_scale: float, steps_per_epoch: int
) -> tuple[optax.GradientTransformation, Callable[[int], float]]:
    """Return SGD with momentum and L2 weight decay, and a function step -> learning rate."""
    lr_milestones = {round(d * epochs_scale * steps_per_epoch): 0.1 for d in stage.lr_milestones}
    schedule = optax.piecewise_constant_schedule(stage.learning_rate, lr_milestones)
    if warmup := round(stage.warmup_epochs * epochs_scale * steps_per_epoch):
        rise = optax.linear_schedule(0.0, 1.0, warmup)
        constant = schedule
        schedule = lambda count: rise(count) * constant(count)  # noqa: E731 - optax takes a callable
    return optax.chain(
        optax.add_decayed_weights(stage.weight_decay, mask=resnet3d.decayed),
        optax.sgd(schedule, momentum=stage.momentum),
    ), lambda step: float(schedule(step))


def initial_state(
    config: ConfigDict,
    optimizer: optax.GradientTransformation,
    num_videos: int,
    devices: jax.sharding.Mesh,
) -> tuple[nnx.GraphDef, TrainState]:
    """Return the structure of the network, and the state before the first step."""
    model = networks.new_model(config)
    model.train()
    graphdef, params, statistics = resnet3d.split(model)
    params, statistics = jax.device_put((params, statistics), sharding.replicated(devices))
    return graphdef, TrainState(
        params,
        statistics,
        jax.device_put(optimizer.init(params), sharding.replicated(devices)),
        memory_bank.init(
            jax.random.key(config.seed),
            num_videos,
            config.model.embedding_dim,
            dtype=jnp.dtype(config.bank_dtype),
            mesh=devices,
        ),
        _no_labels(config.clusters.num_runs, num_videos, devices),
    )


def _no_labels(num_runs: int, num_videos: int, devices: jax.sharding.Mesh) -> Array:
    rows = np.arange(-(-num_videos // devices.size) * devices.size)
    labels = np.where(rows < num_videos, 0, kmeans.UNLABELLED).astype(np.int32)
    return jax.device_put(np.tile(labels, (num_runs, 1)), sharding.columns(devices))


def make(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    stage: ConfigDict,
    num_videos: int,
    devices: jax.sharding.Mesh,
    *,
    num_background: int,
) -> Callable[[TrainState, Batch, int], tuple[TrainState, Scalars]]:
    """Return the jitted step of `stage`: (state, batch, step number) -> (state, scalars to log).

    A step whose gradient is not finite leaves the bank unchanged. The state is donated.

    Args:
      graphdef: Structure of the network.
      optimizer: Optimizer of the parameters.
      config: Config of the run, for augmentation and seed.
      stage: Section of the config with the objective and its settings.
      num_videos: Number of rows of the bank that are videos.
      devices: Devices over which batch and bank are split.
      num_background: Size of B_i; not used by instance recognition.
    """
    part_gradient = functools.partial(
        _part_gradient,
        graphdef,
        _objective(stage, num_videos, num_background, devices),
        {k: config.clip[k] for k in ("flip", "grayscale", "jitter")},
    )

    def step(state: TrainState, batch: Batch, count: Array) -> tuple[TrainState, Scalars]:
        key = jax.random.fold_in(jax.random.key(config.seed), count)
        if stage.accumulation_steps == 1:
            result = part_gradient(state, state.statistics, batch, key)
        else:
            result = _accumulate(part_gradient, state, batch, key, stage.accumulation_steps)
        gradient = jax.tree.map(_row_major, result.gradient)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        # The update depends on the gradient, so that it follows every read of the bank; otherwise
        # XLA copies the bank.
        finite = jnp.isfinite(optax.tree.norm(gradient))
        bank = state.bank
        if stage.get("bank") != "fisher":
            bank = memory_bank.update(
                bank,
                batch["index"],
                result.embedding,
                momentum=stage.bank_momentum,
                where=finite,
            )
        params = optax.apply_updates(state.params, updates)
        state = TrainState(
            params, result.statistics, optimizer_state, bank, state.labels, state.cells
        )
        return state, result.scalars

    return jax.jit(step, donate_argnums=0)


def _row_major(array: Array) -> Array:
    """Return `array` in the layout of the arguments of a jitted function.

    Otherwise XLA updates the parameters in the layout of the gradient, which convolutions of GPUs
    leave transposed: not in place, but with a copy of each kernel and of its momentum.
    """
    return with_layout_constraint(array, Layout(tuple(range(array.ndim))))


class _Result(NamedTuple):
    """Result of a batch, or of a part of it, before the update."""

    gradient: nnx.State
    statistics: nnx.State
    embedding: Float[Array, "b d"]
    scalars: Scalars


def _part_gradient(
    graphdef: nnx.GraphDef,
    objective: Callable[..., tuple[Array, Scalars]],
    augmentation: dict[str, Any],
    state: TrainState,
    statistics: nnx.State,
    clips: Batch,
    key: Array,
) -> _Result:
    """Return the gradient of the mean loss of `clips`, with the bank of `state`."""
    inputs = augment.augment(clips["clip"], clips["key"], **augmentation)

    def loss(params: nnx.State) -> tuple[Array, Any]:
        model = nnx.merge(graphdef, params, statistics, copy=True)
        embedding = model(inputs)
        losses, scalars = objective(embedding, state, clips["index"], key)
        return losses.mean(), (nnx.state(model, nnx.BatchStat), embedding, scalars)

    (value, (statistics, embedding, scalars)), gradient = jax.value_and_grad(loss, has_aux=True)(
        state.params
    )
    return _Result(gradient, statistics, embedding, {"loss": value} | scalars)


def _accumulate(
    part_gradient: Callable[..., _Result],
    state: TrainState,
    batch: Batch,
    key: Array,
    num_parts: int,
) -> _Result:
    """Return the result of the whole batch, computed in `num_parts` equal parts in turn.

    The result of a single part is not computed here, since XLA compiles convolutions inside a loop
    to slow code on CPUs.
    """

    def add_part(carried: tuple, part: tuple[Batch, Array]) -> tuple[tuple, tuple]:
        (statistics, total), (clips, number) = carried, part
        result = part_gradient(state, statistics, clips, jax.random.fold_in(key, number))
        scalars = result.scalars | {"loss": result.scalars["loss"] / num_parts}
        total = jax.tree.map(jnp.add, total, result.gradient)
        return (result.statistics, total), (result.embedding, scalars)

    start = state.statistics, jax.tree.map(jnp.zeros_like, state.params)
    (statistics, total), (embedding, scalars) = jax.lax.scan(
        add_part, start, (_parts(batch, num_parts), jnp.arange(num_parts))
    )
    return _Result(
        jax.tree.map(lambda x: x / num_parts, total),
        statistics,
        embedding.swapaxes(0, 1).reshape(-1, embedding.shape[-1]),
        jax.tree.map(lambda x: x.sum(axis=0), scalars),
    )


def _parts(batch: Batch, num_parts: int) -> Batch:
    """Return arrays [n, b / n, ...] whose n parts span all devices; clip i is in part i % n."""
    return {k: v.reshape(-1, num_parts, *v.shape[1:]).swapaxes(0, 1) for k, v in batch.items()}


def _objective(
    stage: ConfigDict, num_videos: int, num_background: int, devices: jax.sharding.Mesh
) -> Callable[..., tuple[Array, Scalars]]:
    """Return the objective: (embedding, state, index, key) -> (loss per clip, scalars to log)."""
    if stage.objective == "local_aggregation":

        def aggregation(
            embedding: Array, state: TrainState, index: Array, key: Array
        ) -> tuple[Array, Scalars]:
            losses, has_close = local_aggregation.loss(
                embedding,
                state.bank,
                state.labels,
                index,
                num_background=num_background,
                temperature=stage.temperature,
                cells=state.cells,
                num_candidates=stage.num_candidates,
                mesh=devices,
            )
            return losses, {"clips_without_close": jnp.sum(~has_close)}

        return aggregation

    if stage.estimator not in instance_recognition.ESTIMATORS:
        names = sorted(instance_recognition.ESTIMATORS)
        raise ValueError(f"estimator is {stage.estimator!r}; use one of {names}")
    options: dict[str, Any] = {
        "num_rows": num_videos,
        "temperature": stage.temperature,
        "mesh": devices,
    }
    if stage.estimator != "full_softmax":
        options["num_negatives"] = stage.num_negatives
    if stage.estimator == "nce":
        options["scale_constant"] = stage.scale_nce_constant
    estimator: Callable[..., Array] = instance_recognition.ESTIMATORS[stage.estimator]

    def recognition(
        embedding: Array, state: TrainState, index: Array, key: Array
    ) -> tuple[Array, Scalars]:
        return estimator(embedding, state.bank, index, key, **options), {}

    return recognition
