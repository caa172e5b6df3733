"""Training on labels: finetuning (Sec. 4.2), and with nothing frozen the baselines of Table 1.

The head becomes a classifier. What is frozen, the stem and the first stages, keeps its parameters
bit by bit; its normalisation too, unless the settings leave its statistics alive.
"""

import functools
import logging
from collections.abc import Callable, Iterator
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

_THRESHOLD = 1e-4  # share by which a loss has to be lower to count; PyTorch's
_FACTOR = 0.1  # of the learning rate, where the loss stopped improving (Sec. 4.2)


class Plateau(NamedTuple):
    """The learning rate, and the validation loss that it waits to see undercut."""

    learning_rate: Float[Array | np.ndarray, ""]
    best: Float[Array | np.ndarray, ""]
    waited: Int[Array | np.ndarray, ""]  # epochs since

    def after(self, loss: float, *, patience: int) -> "Plateau":
        """After an epoch of `loss`: as torch.optim.lr_scheduler.ReduceLROnPlateau."""
        if loss < float(self.best) * (1 - _THRESHOLD):
            return Plateau(self.learning_rate, np.array(loss, np.float32), np.array(0, np.int32))
        if int(self.waited) < patience:
            return self._replace(waited=self.waited + 1)
        log.info("finetune: the learning rate drops, no better loss for %d epochs", patience + 1)
        rate = np.array(self.learning_rate * np.float32(_FACTOR))
        return Plateau(rate, self.best, np.array(0, np.int32))


class FinetuneState(NamedTuple):
    """What a step changes, and the checkpoint holds."""

    params: nnx.State  # of the whole network, frozen ones too
    statistics: nnx.State  # of batch normalisation
    optimizer: Any
    plateau: Plateau


class Labeled(NamedTuple):
    """Videos and the number of each one's class."""

    videos: Manifest
    classes: Int[np.ndarray, " n"]


def logits(model: ResNet3D, inputs: Float[Array, "b t h w 3"]) -> Float[Array, "b c"]:
    """What the classifier says of clips: the head, not normalised."""
    return model.head(model.pooled(inputs))


def is_frozen(path: tuple, num_stages: int) -> bool:
    """Whether what stands at `path` in the network is in the stem or the first `num_stages`.

    With none, the stem is trained too.
    """
    if not num_stages:
        return False
    return str(path[0]).startswith("stem") or (path[0] == "stages" and int(path[1]) < num_stages)


def prepare(model: ResNet3D, *, frozen_stages: int, freeze_statistics: bool) -> ResNet3D:
    """`model` ready to be trained: normalisation by the batch, but not where it is frozen."""
    model.train()
    if frozen_stages and freeze_statistics:
        model.stem_norm.eval()
        for stage in model.stages[:frozen_stages]:
            stage.eval()
    return model


def dampened_momentum(momentum: float, dampening: float) -> optax.GradientTransformation:
    """velocity <- momentum * velocity + (1 - dampening) * gradient; at first the gradient.

    As torch.optim.SGD.
    """

    def init(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params), jnp.int32(0)

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        velocity, count = state
        share = jnp.where(count == 0, 1.0, 1 - dampening)
        velocity = jax.tree.map(lambda v, g: momentum * v + share * g, velocity, gradient)
        return velocity, (velocity, count + 1)

    return optax.GradientTransformation(init, update)


def make(
    graphdef: nnx.GraphDef, stage: ConfigDict, flip: float
) -> tuple[
    Callable[[nnx.State, nnx.State], FinetuneState],
    Callable[[FinetuneState, Batch, int], tuple[FinetuneState, Scalars]],
]:
    """(parameters, statistics) -> the state at first, and the jitted step.

    A batch has the clips' `class` beside what training clips have.
    """
    optimizer = optax.chain(
        optax.add_decayed_weights(stage.weight_decay, mask=resnet3d.decayed),
        dampened_momentum(stage.momentum, stage.dampening),
    )

    def trains(path: tuple, value: Any) -> bool:
        return not is_frozen(path, stage.frozen_stages)

    def first(params: nnx.State, statistics: nnx.State) -> FinetuneState:
        trained, _ = nnx.split_state(params, trains, ...)
        rate, best = np.array([stage.learning_rate, np.inf], np.float32)
        plateau = Plateau(np.array(rate), np.array(best), np.array(0, np.int32))
        return FinetuneState(params, statistics, optimizer.init(trained), plateau)

    def step(state: FinetuneState, batch: Batch, count: Array) -> tuple[FinetuneState, Scalars]:
        still = (0.0, 0.0, 0.0, 0.0)
        inputs = augment.augment(
            batch["clip"], batch["key"], flip=flip, grayscale=0.0, jitter=still
        )
        trained, frozen = nnx.split_state(state.params, trains, ...)

        def loss(trained: nnx.State) -> tuple[Array, Any]:
            params = nnx.merge_state(trained, frozen)
            model = nnx.merge(graphdef, params, state.statistics, copy=True)
            said = logits(model, inputs * stage.input_scale)
            losses = optax.softmax_cross_entropy_with_integer_labels(said, batch["class"])
            right = jnp.mean(said.argmax(-1) == batch["class"])
            return losses.mean(), (nnx.state(model, nnx.BatchStat), right)

        (value, (statistics, right)), gradient = jax.value_and_grad(loss, has_aux=True)(trained)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, trained)
        rate = state.plateau.learning_rate
        trained = jax.tree.map(lambda p, u: p - rate * u, trained, updates)
        params = nnx.merge_state(trained, frozen)
        state = FinetuneState(params, statistics, optimizer_state, state.plateau)
        return state, {"loss": value, "accuracy": right}

    return first, jax.jit(step, donate_argnums=0)


def finetune(
    name: str,
    config: ConfigDict,
    *,
    fit: Labeled,
    watched: Labeled,
    num_classes: int,
    start: Path | None,
    workdir: Path,
) -> ResNet3D:
    """The network trained on `fit` from the stage in `start` (None: random), in `workdir/name`.

    `name` is STAGE/PART. The learning rate falls where the loss on `watched` stops improving. Every
    process of a run takes part, and has the network; the first one says what it makes of `watched`.
    """
    stage = config[name.split("/")[0]]
    devices = sharding.make()
    steps_per_epoch = batches.num_steps_per_epoch(name.split("/")[0], stage, len(fit.videos))
    num_epochs = settings.num_epochs(stage, config.epochs_scale)
    model = prepare(
        networks.new_classifier(config, num_classes),
        frozen_stages=stage.frozen_stages,
        freeze_statistics=stage.freeze_statistics,
    )
    graphdef, params, statistics = resnet3d.split(model)
    first, step = make(graphdef, stage, config.clip.flip)
    replicated = sharding.replicated(devices)
    classes = jax.device_put(fit.classes, replicated)
    classes_of = jax.jit(jnp.take)

    def take_over(state: FinetuneState) -> FinetuneState:
        if start is None:
            return state
        log.info("%s: starts from %s", name, start.relative_to(workdir))
        _, params, statistics = resnet3d.split(
            networks.load_backbone(networks.new_classifier(config, num_classes), start)
        )
        # as numpy: jax does not send what lies on a device of this process to those of others
        return jax.device_put(jax.tree.map(np.asarray, first(params, statistics)), replicated)

    def labeled_batches(step: int) -> Iterator[Batch]:
        for batch in batches.training_batches(
            name, config, fit.videos, num_epochs, step, devices, workdir
        ):
            yield batch | {"class": classes_of(classes, batch["index"])}

    def end_epoch(state: FinetuneState, epoch: int) -> tuple[FinetuneState, Scalars]:
        network = nnx.merge(
            graphdef, *sharding.local_copy((state.params, state.statistics)), copy=True
        )
        scalars = hosts.run_on_primary(lambda: _validated(network, watched, config, stage))
        plateau = Plateau(*map(np.asarray, state.plateau)).after(
            scalars["validation/loss"], patience=stage.patience
        )
        return state._replace(plateau=jax.device_put(plateau, replicated)), scalars

    training = loop.Stage(
        jax.device_put(first(params, statistics), replicated),
        take_over,
        step,
        labeled_batches,
        lambda state, epoch: (state, {}),
        end_epoch,
        lambda state, step: float(state.plateau.learning_rate),
        fit.videos.video_ids,
    )
    state = loop.run(
        name, config, training, workdir, num_epochs=num_epochs, steps_per_epoch=steps_per_epoch
    )
    return nnx.merge(graphdef, *sharding.local_copy((state.params, state.statistics)))


def _validated(
    network: ResNet3D, watched: Labeled, config: ConfigDict, stage: ConfigDict
) -> dict[str, float]:
    said = clip_logits(network, watched.videos, config, stage, clips_per_video=1)[:, 0]
    losses = optax.softmax_cross_entropy_with_integer_labels(said, watched.classes)
    return {
        "validation/loss": float(losses.mean()),
        "validation/accuracy": float(np.mean(said.argmax(1) == watched.classes)),
    }


def clip_logits(
    model: ResNet3D,
    manifest: Manifest,
    config: ConfigDict,
    stage: ConfigDict,
    *,
    clips_per_video: int,
) -> Float[np.ndarray, "n clips c"]:
    """What `model` says of random centre crops of every video."""
    model.eval()
    graphdef, params, statistics = resnet3d.split(model)
    said = [
        np.asarray(_forward(graphdef, params, statistics, batch["clip"], stage.input_scale))
        for batch in inference.batches(
            manifest, config, clips_per_video=clips_per_video, desc="classify"
        )
    ]
    rows = np.concatenate(said)[: len(manifest) * clips_per_video]  # the last batch is filled up
    return rows.reshape(len(manifest), clips_per_video, -1)


@functools.partial(jax.jit, static_argnums=0)
def _forward(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    statistics: nnx.State,
    clip: UInt8[Array, "b t h w 3"],
    input_scale: float,
) -> Float[Array, "b c"]:
    network = nnx.merge(graphdef, params, statistics)
    return logits(network, augment.normalize(clip) * input_scale)


AVERAGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": lambda said: np.asarray(jax.nn.softmax(said, axis=-1)).mean(axis=1),
    "logits": lambda said: said.mean(axis=1),  # released
}


def predict(said: Float[np.ndarray, "n clips c"], *, average: str) -> Int[np.ndarray, " n"]:
    """The class of each video: the largest mean over its clips (Sec. 4.2)."""
    if average not in AVERAGES:
        raise settings.SettingsError(f"average is {average!r}; use one of {sorted(AVERAGES)}")
    return AVERAGES[average](said).argmax(axis=1)
