"""Training on labels: finetuning (Sec. 4.2), and with nothing frozen the baselines of Table 1.

The head becomes a classifier. The frozen layers, the stem and the first stages, keep their
parameters bit by bit, and their statistics of batch normalization unless the settings train them.
"""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8
from ml_collections import ConfigDict

from vcjax import inference, settings
from vcjax.data import augment
from vcjax.data.manifest import Manifest
from vcjax.models import resnet3d
from vcjax.models.resnet3d import ResNet3D
from vcjax.runtime import hosts, sharding
from vcjax.training import batches, loop, networks
from vcjax.training.step import Batch, Scalars

log = logging.getLogger(__name__)

_THRESHOLD = 1e-4  # relative decrease of the loss that counts as an improvement; PyTorch's
_FACTOR = 0.1  # factor of the learning rate when the loss stops improving (Sec. 4.2)


class Plateau(NamedTuple):
    """State of the schedule that lowers the learning rate when the validation loss plateaus."""

    learning_rate: Float[Array | np.ndarray, ""]
    best: Float[Array | np.ndarray, ""]
    waited: Int[Array | np.ndarray, ""]  # epochs since the best loss

    def update(self, loss: float, *, patience: int) -> "Plateau":
        """Return the state after an epoch, as torch.optim.lr_scheduler.ReduceLROnPlateau.

        Args:
          loss: validation loss of the epoch.
          patience: epochs without improvement that do not lower the learning rate.
        """
        if loss < float(self.best) * (1 - _THRESHOLD):
            return Plateau(self.learning_rate, np.array(loss, np.float32), np.array(0, np.int32))
        if int(self.waited) < patience:
            return self._replace(waited=self.waited + 1)
        log.info(
            "finetune: no lower validation loss for %d epochs: lower learning rate", patience + 1
        )
        rate = np.array(self.learning_rate * np.float32(_FACTOR))
        return Plateau(rate, self.best, np.array(0, np.int32))


class FinetuneState(NamedTuple):
    """State of finetuning that a step updates and a checkpoint stores."""

    params: nnx.State  # of the whole network, frozen layers included
    statistics: nnx.State  # running mean and variance of batch normalization
    optimizer: Any
    plateau: Plateau


class Labeled(NamedTuple):
    """Videos and their class indices."""

    videos: Manifest
    classes: Int[np.ndarray, " n"]


def logits(model: ResNet3D, inputs: Float[Array, "b t h w 3"]) -> Float[Array, "b c"]:
    """Return the logits of clips: the output of the head without L2 normalization."""
    return model.head(model.pooled(inputs))


def is_frozen(path: tuple, num_stages: int) -> bool:
    """Return True if the parameter at `path` is in the stem or in the first `num_stages` stages.

    If `num_stages` is 0, the stem is trained as well.
    """
    if not num_stages:
        return False
    return str(path[0]).startswith("stem") or (path[0] == "stages" and int(path[1]) < num_stages)


def prepare(model: ResNet3D, *, frozen_stages: int, freeze_statistics: bool) -> ResNet3D:
    """Set `model` to training mode and return it.

    Layers normalize by the statistics of the batch. If `freeze_statistics`, the frozen layers
    normalize by their running statistics.
    """
    model.train()
    if frozen_stages and freeze_statistics:
        model.stem_norm.eval()
        for stage in model.stages[:frozen_stages]:
            stage.eval()
    return model


def dampened_momentum(momentum: float, dampening: float) -> optax.GradientTransformation:
    """Return the momentum transformation of torch.optim.SGD.

    velocity <- momentum * velocity + (1 - dampening) * gradient, and the first velocity is
    the gradient.
    """

    def init(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params), jnp.int32(0)

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        velocity, count = state
        weight = jnp.where(count == 0, 1.0, 1 - dampening)
        velocity = jax.tree.map(lambda v, g: momentum * v + weight * g, velocity, gradient)
        return velocity, (velocity, count + 1)

    return optax.GradientTransformation(init, update)


def make(
    graphdef: nnx.GraphDef, stage: ConfigDict, flip: float
) -> tuple[
    Callable[[nnx.State, nnx.State], FinetuneState],
    Callable[[FinetuneState, Batch, int], tuple[FinetuneState, Scalars]],
]:
    """Return a function (parameters, statistics) -> initial state, and the jitted training step.

    A batch has the entry `class`, the class index of each clip, in addition to the entries of
    training clips.
    """
    optimizer = optax.chain(
        optax.add_decayed_weights(stage.weight_decay, mask=resnet3d.decayed),
        dampened_momentum(stage.momentum, stage.dampening),
    )

    def trains(path: tuple, value: Any) -> bool:
        return not is_frozen(path, stage.frozen_stages)

    def initial_state(params: nnx.State, statistics: nnx.State) -> FinetuneState:
        trained, _ = nnx.split_state(params, trains, ...)
        rate, best = np.array([stage.learning_rate, np.inf], np.float32)
        plateau = Plateau(np.array(rate), np.array(best), np.array(0, np.int32))
        return FinetuneState(params, statistics, optimizer.init(trained), plateau)

    def step(state: FinetuneState, batch: Batch, count: Array) -> tuple[FinetuneState, Scalars]:
        no_jitter = (0.0, 0.0, 0.0, 0.0)
        inputs = augment.augment(
            batch["clip"], batch["key"], flip=flip, grayscale=0.0, jitter=no_jitter
        )
        trained, frozen = nnx.split_state(state.params, trains, ...)

        def loss(trained: nnx.State) -> tuple[Array, Any]:
            params = nnx.merge_state(trained, frozen)
            model = nnx.merge(graphdef, params, state.statistics, copy=True)
            outputs = logits(model, inputs * stage.input_scale)
            losses = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["class"])
            accuracy = jnp.mean(outputs.argmax(-1) == batch["class"])
            return losses.mean(), (nnx.state(model, nnx.BatchStat), accuracy)

        (value, (statistics, accuracy)), gradient = jax.value_and_grad(loss, has_aux=True)(trained)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, trained)
        rate = state.plateau.learning_rate
        trained = jax.tree.map(lambda p, u: p - rate * u, trained, updates)
        params = nnx.merge_state(trained, frozen)
        state = FinetuneState(params, statistics, optimizer_state, state.plateau)
        return state, {"loss": value, "accuracy": accuracy}

    return initial_state, jax.jit(step, donate_argnums=0)


def finetune(
    name: str,
    config: ConfigDict,
    *,
    train: Labeled,
    validation: Labeled,
    num_classes: int,
    start: Path | None,
    workdir: Path,
) -> ResNet3D:
    """Train a classifier in `workdir/name`, resuming from its last checkpoint, and return it.

    The learning rate falls when the loss on `validation` stops improving. All processes of a run
    must call it, and all receive the network; the first one validates.

    Args:
      name: STAGE/PART.
      config: the settings of the run.
      train: videos to train on.
      validation: videos whose loss determines the learning rate.
      num_classes: number of classes.
      start: folder of the stage to initialize the backbone from; None: random weights.
      workdir: folder of the run.
    """
    section = name.split("/")[0]
    stage, devices = config[section], sharding.make()
    sizes = settings.resolve(config, section, len(train.videos), num_devices=jax.device_count())
    model = prepare(
        networks.new_classifier(config, num_classes),
        frozen_stages=stage.frozen_stages,
        freeze_statistics=stage.freeze_statistics,
    )
    graphdef, params, statistics = resnet3d.split(model)
    initial_state, step = make(graphdef, stage, config.clip.flip)
    replicated = sharding.replicated(devices)
    classes = jax.device_put(train.classes, replicated)
    classes_of = jax.jit(jnp.take)
    state = jax.device_put(initial_state(params, statistics), replicated)
    with loop.training_run(
        name,
        config,
        workdir,
        video_ids=train.videos.video_ids,
        num_epochs=sizes.num_epochs,
        steps_per_epoch=sizes.steps_per_epoch,
        learning_rate=lambda state, step: float(state.plateau.learning_rate),
    ) as run:
        if run.resumes:
            state = FinetuneState(**run.restore(state._asdict()))
        elif start is not None:
            log.info("%s: initialized from %s", name, start.relative_to(workdir))
            _, params, statistics = resnet3d.split(
                networks.load_backbone(networks.new_classifier(config, num_classes), start)
            )
            # As NumPy arrays: JAX does not send device arrays of this process to other processes.
            arrays = jax.tree.map(np.asarray, initial_state(params, statistics))
            state = jax.device_put(arrays, replicated)
        clips = batches.training_batches(
            name, config, train.videos, sizes.num_epochs, run.step, devices, workdir
        )
        for _ in run.epochs():
            for batch in run.batches(clips):
                labeled = batch | {"class": classes_of(classes, batch["index"])}
                with run.dispatching():
                    state, scalars = step(state, labeled, run.step)
                run.end_step(state, scalars, batch["index"])
            with run.interruptible():
                network = _local_network(graphdef, state)
                scalars = hosts.run_on_primary(
                    functools.partial(_validate, network, validation, config, stage)
                )
            plateau = Plateau(*map(np.asarray, state.plateau)).update(
                scalars["validation/loss"], patience=stage.patience
            )
            state = state._replace(plateau=jax.device_put(plateau, replicated))
            run.end_epoch(scalars)
    return nnx.merge(graphdef, *sharding.local_copy((state.params, state.statistics)))


def _local_network(graphdef: nnx.GraphDef, state: FinetuneState) -> ResNet3D:
    """Return a copy of the network on a device of this process."""
    arrays = sharding.local_copy((state.params, state.statistics))
    return nnx.merge(graphdef, *arrays, copy=True)


def _validate(
    network: ResNet3D, validation: Labeled, config: ConfigDict, stage: ConfigDict
) -> dict[str, float]:
    outputs = clip_logits(network, validation.videos, config, stage, clips_per_video=1)[:, 0]
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, validation.classes)
    return {
        "validation/loss": float(losses.mean()),
        "validation/accuracy": float(np.mean(outputs.argmax(1) == validation.classes)),
    }


def clip_logits(
    model: ResNet3D,
    manifest: Manifest,
    config: ConfigDict,
    stage: ConfigDict,
    *,
    clips_per_video: int,
) -> Float[np.ndarray, "n clips c"]:
    """Return the logits of center crops of clips of every video, as `clips.evaluation_clips`.

    Args:
      model: the network, which is set to evaluation mode.
      manifest: the videos.
      config: the settings of the run.
      stage: the section of the finetuning stage.
      clips_per_video: number of clips of each video.
    """
    run = forward(model, stage.input_scale)
    outputs = [
        np.asarray(run(batch["clip"])[0])
        for batch in inference.batches(
            manifest, config, clips_per_video=clips_per_video, desc="classify"
        )
    ]
    rows = np.concatenate(outputs)[: len(manifest) * clips_per_video]  # the last batch is padded
    return rows.reshape(len(manifest), clips_per_video, -1)


def forward(model: ResNet3D, input_scale: float, *, softmax: bool = False) -> inference.Forward:
    """Return a compiled function from clips in [0, 255] to their logits, or to probabilities."""
    model.eval()
    return functools.partial(_forward, softmax, *resnet3d.split(model), input_scale)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(
    softmax: bool,
    graphdef: nnx.GraphDef,
    params: nnx.State,
    statistics: nnx.State,
    input_scale: float,
    clip: UInt8[Array, "b t h w 3"],
) -> tuple[Float[Array, "b c"]]:
    network = nnx.merge(graphdef, params, statistics)
    outputs = logits(network, augment.normalize(clip) * input_scale)
    return (jax.nn.softmax(outputs) if softmax else outputs,)


AVERAGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": lambda logits: np.asarray(jax.nn.softmax(logits, axis=-1)).mean(axis=1),
    "logits": lambda logits: logits.mean(axis=1),  # released
}


def predict(logits: Float[np.ndarray, "n clips c"], *, average: str) -> Int[np.ndarray, " n"]:
    """Return the predicted class of each video: the largest mean over its clips (Sec. 4.2).

    Args:
      logits: logits of each clip.
      average: average over clips, "softmax" or "logits" (released).

    Raises:
      SettingsError: if `average` is unknown.
    """
    if average not in AVERAGES:
        raise settings.SettingsError(
            f"average is {average!r}; use one of {', '.join(sorted(AVERAGES))}"
        )
    return AVERAGES[average](logits).argmax(axis=1)
