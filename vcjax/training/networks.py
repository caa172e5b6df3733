"""New networks, and networks of the checkpoints of a stage."""

from pathlib import Path

from flax import nnx
from ml_collections import ConfigDict

from vcjax.models import resnet3d
from vcjax.models.resnet3d import ResNet3D
from vcjax.runtime import activation_dtype, checkpoint


def new_model(config: ConfigDict) -> ResNet3D:
    """Return the network of `config.model` with random weights drawn from `config.seed`."""
    return ResNet3D(
        depth=config.model.depth,
        width=config.model.width,
        embedding_dim=config.model.embedding_dim,
        dtype=activation_dtype.resolve(config.model.dtype),
        rngs=nnx.Rngs(config.seed),
    )


def new_classifier(config: ConfigDict, num_classes: int) -> ResNet3D:
    """Return the network of `config.model` with a head of `num_classes` logits, random weights."""
    return ResNet3D(
        depth=config.model.depth,
        width=config.model.width,
        embedding_dim=num_classes,
        dtype=activation_dtype.resolve(config.model.dtype),
        rngs=nnx.Rngs(config.seed),
    )


def load_model(config: ConfigDict, directory: Path, *, best: bool = False) -> ResNet3D:
    """Return the network of a checkpoint of the stage in `directory`.

    It is read by this process alone.

    Args:
      config: the settings of the run, for the architecture.
      directory: the folder of the stage.
      best: read the checkpoint with the best validation score instead of the newest one.

    Raises:
      FileNotFoundError: if there is no such checkpoint.
    """
    graphdef, params, statistics = resnet3d.split(new_model(config))
    part = {"params": params, "statistics": statistics}
    restored = checkpoint.restore_part(directory / "checkpoints", part, alone=True, best=best)
    return nnx.merge(graphdef, restored["params"], restored["statistics"])


def load_backbone(model: ResNet3D, directory: Path) -> ResNet3D:
    """Return `model` with all weights but its head from the newest checkpoint in `directory`."""
    graphdef, params, statistics = resnet3d.split(model)
    backbone = nnx.State({k: v for k, v in params.items() if k != "head"})
    restored = checkpoint.restore_part(
        directory / "checkpoints", {"params": backbone, "statistics": statistics}, alone=True
    )
    params = nnx.merge_state(params, restored["params"])
    return nnx.merge(graphdef, params, restored["statistics"])
