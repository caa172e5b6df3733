"""Accelerators that programs can be compiled for without access to one."""

import importlib.util
import os
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from vcjax.runtime import sharding


class Chip(NamedTuple):
    """Data sheet of an accelerator, per JAX device."""

    memory: float  # bytes
    bandwidth: float  # bytes per second
    flops: float  # per second in bfloat16
    float32_flops: float  # per second at full float32 precision; on TPUs six bfloat16 passes
    clock: float = 0.0  # cycles per second in XLA's estimates; 0: XLA gives no estimates


def _tpu(memory: float, bandwidth: float, flops: float, clock: float) -> Chip:
    return Chip(memory * 2**30, bandwidth * 1e9, flops * 1e12, flops * 1e12 / 6, clock * 1e9)


CHIPS = {
    "v4": _tpu(32, 1228, 275, 1.05),
    "v5e": _tpu(16, 819, 197, 1.5),
    "v5p": _tpu(95, 2765, 459, 1.75),
    "v6e": _tpu(32, 1640, 918, 1.75),
    "h100": Chip(80e9, 3.35e12, 989e12, 67e12),
}

# H100 SXM, for XLA's compiler
_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  clock_rate_ghz: 1.98
  l2_cache_size: 52428800
  memory_bandwidth: 3352320000000
  device_memory_size: 84942979072
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
# Without a GPU XLA cannot try out kernels. The layout is the one of `runtime.xla_flags`.
_CUDA_OPTIONS: dict[str, str | bool] = {
    "xla_gpu_autotune_level": "0",
    "xla_gpu_force_conv_nhwc": True,
}
_WHEELS = {"tpu": ("libtpu", "aot"), "cuda": ("jax_cuda13_plugin", "cuda13")}


# No TPU of this machine is queried, and several processes may compile at once.
_LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_CONFIGURATIONS = {"v4": "megacore", "v5p": "megacore"}  # both cores of a chip are one device


class Target(NamedTuple):
    """Devices to compile for."""

    mesh: Mesh
    chip: Chip
    options: dict[str, str | bool]  # of XLA


def is_installed(name: str) -> bool:
    """Return True if the compiler for the target `name` is installed."""
    return importlib.util.find_spec(_WHEELS[_platform(name)][0]) is not None


def target(name: str) -> Target:
    """Return the devices of `name`, for example v5e:16x16 (chips in a slice) or h100x8.

    Raises:
      ValueError: if there is no such target or its compiler is not installed.
    """
    chip, platform = name.split(":")[0].split("x")[0], _platform(name)
    if chip not in CHIPS:
        raise ValueError(f"there is no target {name}; use for example v5e:2x4, v4:2x2x1 or h100x8")
    if not is_installed(name):
        wheel, extra = _WHEELS[platform]
        raise ValueError(f"{name} needs {wheel}; install it by pip install 'vcjax[{extra}]'")
    if platform == "cuda":
        settings = {"target_config": _H100, "topology": f"1x1x{name.partition('x')[2] or 1}"}
        devices = topologies.get_topology_desc(platform="cuda", **settings).devices
        return Target(_mesh(devices), CHIPS[chip], dict(_CUDA_OPTIONS))
    for variable, value in _LIBTPU.items():
        os.environ.setdefault(variable, value)
    try:
        devices = topologies.get_topology_desc(
            platform="tpu",
            topology_name=name,
            chip_config_name=_CONFIGURATIONS.get(chip, "default"),
        ).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"there is no target {name}: {str(error).splitlines()[0]}") from error
    return Target(_mesh(devices), CHIPS[chip], {})


def _platform(name: str) -> str:
    return "cuda" if name.startswith("h100") else "tpu"


def _mesh(devices: list[jax.Device]) -> Mesh:
    return Mesh(np.array(devices), (sharding.AXIS,), axis_types=(AxisType.Auto,))
