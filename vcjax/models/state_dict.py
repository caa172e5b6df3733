"""Conversion of 3D ResNet parameters to and from PyTorch (names of Hara et al.'s 3D-ResNets)."""

import re
from collections.abc import Mapping

import numpy as np
from flax import nnx

from vcjax.models import resnet3d
from vcjax.models.resnet3d import ResNet3D
from vcjax.runtime import checks

Arrays = dict[str, np.ndarray]

_LAYERS = {
    "first": "conv1",
    "first_norm": "bn1",
    "second": "conv2",
    "second_norm": "bn2",
    "shortcut": "downsample.0",
    "shortcut_norm": "downsample.1",
}
_TOP = {"stem": "conv1", "stem_norm": "bn1", "head": "fc"}
_VALUES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


class WeightsError(ValueError):
    """The weights do not match the 3D ResNet; the message names the difference."""


@checks.arguments
def arrays(model: ResNet3D) -> Arrays:
    """Return parameters and running statistics by name, such as stages.0.1.first.kernel."""
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    return {name: np.asarray(value[...]) for name, value in _variables(state).items()}


@checks.arguments
def load(model: ResNet3D, values: Mapping[str, np.ndarray]) -> None:
    """Set all parameters and running statistics of `model` to `values`, named as by `arrays`.

    Raises:
      WeightsError: if a name is missing or unknown, a shape differs, or a value is not finite.
    """
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    variables = _variables(state)
    if missing := sorted(variables.keys() - values.keys()):
        raise WeightsError(f"{len(missing)} weights are missing, first {missing[0]}")
    if unknown := sorted(values.keys() - variables.keys()):
        raise WeightsError(f"{len(unknown)} weights are unknown, first {unknown[0]}")
    arrays = {name: np.asarray(values[name], np.float32) for name in variables}
    for name, variable in variables.items():
        if variable.shape != arrays[name].shape:
            raise WeightsError(f"{name} has shape {arrays[name].shape}, expected {variable.shape}")
        if not np.isfinite(arrays[name]).all():
            raise WeightsError(f"{name} has a value that is not finite")
        variable[...] = arrays[name]
    nnx.update(model, state)


def _variables(state: nnx.State) -> dict[str, nnx.Variable]:
    return {".".join(map(str, path)): value for path, value in nnx.to_flat_state(state)}


@checks.arguments
def to_torch(values: Mapping[str, np.ndarray]) -> Arrays:
    """Return the PyTorch state dict of the same network, with kernels as [out, in, t, h, w]."""
    state_dict = {_torch_name(name): _to_torch(name, value) for name, value in values.items()}
    norms = [
        name.removesuffix("running_mean") for name in state_dict if name.endswith("running_mean")
    ]
    counts = {f"{norm}num_batches_tracked": np.zeros((), np.int64) for norm in norms}
    return dict(sorted((state_dict | counts).items()))


@checks.arguments
def from_torch(state_dict: Mapping[str, np.ndarray]) -> Arrays:
    """Return the parameters and running statistics of a PyTorch state dict, named as by `arrays`.

    The inverse of `to_torch`. A leading `module.` (DataParallel) is stripped.

    Raises:
      WeightsError: if the state dict is of another network.
    """
    named = {name.removeprefix("module."): value for name, value in state_dict.items()}
    if any(".conv3." in name for name in named):
        raise WeightsError("the network has bottlenecks; only depths 18 and 34 are supported")
    if "layer2.0.conv1.weight" in named and "layer2.0.downsample.0.weight" not in named:
        raise WeightsError("the shortcuts have no projection (type A); only type B is supported")
    depth, width, dim = shape(named)
    network = nnx.eval_shape(lambda: _network(depth, width, dim))
    values = {}
    for name in _variables(nnx.state(network, nnx.Any(nnx.Param, nnx.BatchStat))):
        if _torch_name(name) not in named:
            raise WeightsError(f"no {_torch_name(name)} in the state dict")
        values[name] = _from_torch(name, named.pop(_torch_name(name)))
    if left := sorted(name for name in named if not name.endswith("num_batches_tracked")):
        raise WeightsError(f"{len(left)} weights of another network, first {left[0]}")
    return values


@checks.arguments
def shape(named: Mapping[str, np.ndarray]) -> tuple[int, int, int]:
    """Return depth, width and embedding dimension of the network with this state dict.

    Names must have no `module.` prefix.

    Raises:
      WeightsError: if it is not a 3D ResNet of depth 18 or 34.
    """
    blocks = [
        len({m[1] for n in named if (m := re.match(rf"layer{s}\.(\d+)\.", n))}) for s in range(1, 5)
    ]
    depths: dict[tuple[int, ...], int] = {
        counts: depth for depth, counts in resnet3d.STAGE_BLOCKS.items()
    }
    if tuple(blocks) not in depths or "conv1.weight" not in named or "fc.weight" not in named:
        raise WeightsError(f"not a 3D ResNet of depth 18 or 34: blocks {blocks}")
    return depths[tuple(blocks)], len(named["conv1.weight"]), len(named["fc.weight"])


def _network(depth: int, width: int, dim: int) -> ResNet3D:
    return ResNet3D(depth=depth, width=width, embedding_dim=dim, rngs=nnx.Rngs(0))


def _torch_name(name: str) -> str:
    *module, value = name.split(".")
    if module[0] == "stages":
        _, stage, block, layer = module
        prefix = f"layer{int(stage) + 1}.{block}.{_LAYERS[layer]}"
    else:
        prefix = _TOP[module[0]]
    return f"{prefix}.{_VALUES.get(value, value)}"


def _to_torch(name: str, value: np.ndarray) -> np.ndarray:
    if not name.endswith("kernel"):
        return value
    return value.T if value.ndim == 2 else value.transpose(4, 3, 0, 1, 2)


def _from_torch(name: str, value: np.ndarray) -> np.ndarray:
    if not name.endswith("kernel"):
        return value
    return value.T if value.ndim == 2 else value.transpose(2, 3, 4, 1, 0)
