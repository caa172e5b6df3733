"""A new network by the settings, or the one that a stage left."""

from pathlib import Path

import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from vcjax.models import resnet3d
from vcjax.models.resnet3d import ResNet3D
from vcjax.runtime import checkpoint


def new_model(config: ConfigDict) -> ResNet3D:
    """Return the network of `config.model` with random weights drawn from `config.seed`."""
    return ResNet3D(
        depth=config.model.depth,
        width=config.model.width,
        embedding_dim=config.model.embedding_dim,
        dtype=jnp.dtype(config.model.dtype),
        rngs=nnx.Rngs(config.seed),
    )


def new_classifier(config: ConfigDict, num_classes: int) -> ResNet3D:
    """The network of `config.model` whose head says classes, random by `config.seed`."""
    return ResNet3D(
        depth=config.model.depth,
        width=config.model.width,
        embedding_dim=num_classes,
        dtype=jnp.dtype(config.model.dtype),
        rngs=nnx.Rngs(config.seed),
    )


def load_model(config: ConfigDict, directory: Path, *, best: bool = False) -> ResNet3D:
    """The network as the stage in `directory` left it, or as it was at its best validation.

    Raises FileNotFoundError before that.
    """
    graphdef, params, statistics = resnet3d.split(new_model(config))
    part = {"params": params, "statistics": statistics}
    restored = checkpoint.restore_part(directory / "checkpoints", part, alone=True, best=best)
    return nnx.merge(graphdef, restored["params"], restored["statistics"])


def load_backbone(model: ResNet3D, directory: Path) -> ResNet3D:
    """`model` with all but the head as the stage in `directory` left it."""
    graphdef, params, statistics = resnet3d.split(model)
    wanted = nnx.State({k: v for k, v in params.items() if k != "head"})
    restored = checkpoint.restore_part(
        directory / "checkpoints", {"params": wanted, "statistics": statistics}, alone=True
    )
    params = nnx.merge_state(params, restored["params"])
    return nnx.merge(graphdef, params, restored["statistics"])
