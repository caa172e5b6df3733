"""Training step of local aggregation; peer: a step of the same network in PyTorch.

PyTorch trains the network only: its loss is linear in the embedding, without augmentation or bank.
Both compute in float32 on CPUs and in bfloat16 on GPUs, where PyTorch compiles with channels last.
"""

import importlib.util
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vcjax import settings
from vcjax.bench import _profile, _timing, la_loss
from vcjax.runtime import sharding
from vcjax.training import step as steps

# clips, frames, side in pixels, width
ON_CPU = ((8, 8, 32, 16), (8, 8, 56, 16), (4, 16, 112, 64))
ON_GPU = ((256, 16, 112, 64),)
NUM_VIDEOS = {"cpu": 10_000}  # on other platforms, the size of Kinetics


def cases() -> Iterator[dict[str, Any]]:
    """Yield small networks on CPUs, then the network of the paper."""
    for shape in ON_CPU if jax.default_backend() == "cpu" else ON_GPU:
        peer = None
        if importlib.util.find_spec("torch"):
            from vcjax.bench import _torch

            peer = "PyTorch", _torch.seconds(*shape)
        yield measured(*shape, peer=peer)


def measured(
    *shape: int, stage: str = "la", peer: tuple[str, float] | None = None
) -> dict[str, Any]:
    """Return the case of a step of `stage`, with its largest kernels and temporary memory.

    Args:
      *shape: Number of clips, frames per clip, side of a frame in pixels, and width of the network.
      stage: Section of the config, "ir" or "la".
      peer: Name and median seconds of the peer.
    """
    batch_size, num_frames, side, width = shape
    step, state, batch = prepare(*shape, dtype=_dtype(), stage=stage)
    compiled = step.lower(state, batch, 0).compile()
    counts, held = itertools.count(), [state]

    def run() -> Any:
        held[0], scalars = compiled(held[0], batch, next(counts))
        return scalars

    seconds = _timing.median_seconds(run)
    case = _timing.case(
        "step",
        f"{stage}, {batch_size} x {num_frames}x{side}x{side}, width {width}, "
        f"{batch_size / seconds:.3g} clips/s",
        seconds,
        peer=peer,
        flops=compiled.cost_analysis()["flops"],
        dtype=_dtype(),
    )
    kernels = [kernel._asdict() for kernel in _profile.largest(run, compiled)]
    return case | {
        "clips_per_second": batch_size / seconds,
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "kernels": kernels,
    }


def _dtype() -> str:
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def _config(batch_size: int, num_frames: int, side: int, width: int, *, dtype: str) -> ConfigDict:
    config = settings.paper()
    config.clip.num_frames, config.clip.side = num_frames, side
    config.model.width = width
    config.la.batch_size = config.ir.batch_size = batch_size
    config.model.dtype = dtype
    config.la.num_background = 0
    return config


def prepare(
    *shape: int, dtype: str, stage: str = "la"
) -> tuple[Any, steps.TrainState, dict[str, jax.Array]]:
    """Return a jitted step, an initial state and a random batch.

    Args:
      *shape: Number of clips, frames per clip, side of a frame in pixels, and width of the network.
      dtype: Precision of the network.
      stage: Section of the config, "ir" or "la".
    """
    config, devices = _config(*shape, dtype=dtype), sharding.make(1)
    num_videos = NUM_VIDEOS.get(jax.default_backend(), la_loss.NUM_ROWS)
    optimizer, _ = steps.optimizer(config[stage], 1.0, 100)
    graphdef, state = steps.initial_state(config, optimizer, num_videos, devices)
    generator = np.random.default_rng(0)
    labels = generator.integers(256, size=(config.clusters.num_runs, num_videos), dtype=np.int32)
    num_background = settings.num_background(config.la.num_background, num_videos)
    step = steps.make(
        graphdef,
        optimizer,
        config,
        config[stage],
        num_videos,
        devices,
        num_background=num_background,
    )
    return (
        step,
        state._replace(labels=jnp.asarray(labels)),
        _batch(*shape[:3], num_videos=num_videos),
    )


def _batch(batch_size: int, num_frames: int, side: int, *, num_videos: int) -> dict[str, jax.Array]:
    generator = np.random.default_rng(1)
    shape = (batch_size, num_frames, side, side, 3)
    return {
        "clip": jnp.asarray(generator.integers(256, size=shape, dtype=np.uint8)),
        "key": jnp.asarray(generator.integers(1 << 32, size=batch_size, dtype=np.uint32)),
        "index": jnp.asarray(generator.permutation(num_videos)[:batch_size].astype(np.int32)),
    }
