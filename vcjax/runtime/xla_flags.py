"""Start of the devices, and defaults of XLA's flags, which have to be set before that."""

import importlib.util
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax

_CUDA_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
# XLA's own heuristic gives 3D convolutions the channels-first layout on Hopper GPUs; channels last
# takes less time there (measured on an H100, docs/cost.md).
_CUDA_FLAGS = ("--xla_gpu_force_conv_nhwc=true",)


def set_defaults() -> None:
    """Add the project's defaults to the environment variable XLA_FLAGS.

    A flag that the variable already sets, to any value, is left as it is. Without a CUDA plugin
    nothing is added.
    """
    if not any(importlib.util.find_spec(plugin) for plugin in _CUDA_PLUGINS):
        return
    flags = os.environ.get("XLA_FLAGS", "")
    names = [flag.split("=")[0] for flag in flags.split()]
    added = [flag for flag in _CUDA_FLAGS if flag.split("=")[0] not in names]
    os.environ["XLA_FLAGS"] = " ".join([*flags.split(), *added])


def devices() -> "list[jax.Device]":
    """Start JAX with the project's flags and return the devices of this process.

    Raises:
        ValueError: If the platform that JAX_PLATFORMS requests has no device here.
    """
    set_defaults()
    import jax  # imported late, since --help does not need it

    try:
        return jax.local_devices()
    except (RuntimeError, AssertionError) as error:
        platforms = os.environ.get("JAX_PLATFORMS", "")
        reason = " ".join(str(error).split()) or "no such device, or its plugin is not installed"
        raise ValueError(
            f"JAX cannot start a device (JAX_PLATFORMS={platforms}): {reason}; "
            "install the extra of the device (vcjax[cuda], vcjax[tpu]), or set JAX_PLATFORMS=cpu"
        ) from error
