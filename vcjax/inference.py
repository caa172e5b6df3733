"""Embeddings and pooled features of videos by frozen networks: means over center crops."""

import functools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict

from vcjax.data import augment, clips
from vcjax.data.manifest import Manifest
from vcjax.models import resnet3d
from vcjax.models.resnet3d import ResNet3D
from vcjax.runtime import checks, progress


class Features(NamedTuple):
    """Outputs of one network for n videos, in the order of their manifest."""

    embedding: Float[np.ndarray, "n d"]  # unit L2 norm
    pooled: Float[np.ndarray, "n f"]  # input of the linear head


def batches(
    manifest: Manifest,
    config: ConfigDict,
    *,
    clips_per_video: int,
    desc: str,
    skip_bad: bool = False,
) -> Iterable[clips.Batch]:
    """Return batches of `clips.evaluation_clips` with the settings of a config and a progress bar.

    Args:
        manifest: Videos to read.
        config: Settings of a run.
        clips_per_video: Number of random clips of each video.
        desc: Label of the progress bar.
        skip_bad: Replace undecodable clips by black clips of index -1 instead of raising an error.
    """
    dataset = clips.evaluation_clips(
        manifest,
        num_frames=config.clip.num_frames,
        stride=config.clip.stride,
        side=config.clip.side,
        clips_per_video=clips_per_video,
        seed=config.seed,
        batch_size=config.evaluation.batch_size,
        skip_bad=skip_bad,
    )
    reading = clips.iterate(
        dataset, num_workers=config.data.num_workers, num_threads=config.data.num_threads
    )
    return progress.bar(reading, total=len(dataset), desc=desc, unit="batch")


@checks.arguments
def videos(
    models: Mapping[str, ResNet3D],
    manifest: Manifest,
    config: ConfigDict,
    *,
    clips_per_video: int,
    desc: str = "embed",
    skip_bad: bool = False,
) -> dict[str, Features]:
    """Return {name: features} of every video for each model, as means over the video's clips.

    Each clip is decoded once for all models. The mean embedding is normalized to unit L2 norm.

    Args:
        models: Networks by name.
        manifest: Videos to embed.
        config: Settings of a run.
        clips_per_video: Number of random clips of each video.
        desc: Label of the progress bar.
        skip_bad: Return zeros for a video that cannot be decoded.

    Raises:
        DecodeError: If a video cannot be decoded and `skip_bad` is False.
        FloatingPointError: If the output of a network is not finite or a zero embedding, as after a
            diverged training.
    """
    checks.count("clips_per_video", clips_per_video)
    split = {}
    for name, model in models.items():
        model.eval()
        split[name] = resnet3d.split(model)
    sums: dict[str, list[np.ndarray]] = {}
    for batch in batches(
        manifest, config, clips_per_video=clips_per_video, desc=desc, skip_bad=skip_bad
    ):
        real = batch["index"] >= 0
        for name, (graphdef, params, statistics) in split.items():
            outputs = _forward(graphdef, params, statistics, batch["clip"])
            if name not in sums:
                sums[name] = [np.zeros((len(manifest), x.shape[1]), np.float32) for x in outputs]
            _check_outputs(name, *outputs)
            for total, output in zip(sums[name], outputs, strict=True):
                np.add.at(total, batch["index"][real], np.asarray(output)[real])
    return {name: _mean(*sums[name], clips_per_video=clips_per_video) for name in sums}


def clips_of(model: ResNet3D, batch: UInt8[np.ndarray, "b t h w 3"]) -> Features:
    """Return the outputs of `model` for a batch of RGB clips in [0, 255], one row per clip.

    Raises:
        ValueError: If `batch` is not an array of uint8 [b, t, h, w, 3].
    """
    checks.argument("model", model, ResNet3D)
    checks.array("clips", batch, "b t h w 3", kind="values")
    if batch.dtype != np.uint8:
        advice = "scale them to [0, 255] and cast" if batch.dtype.kind == "f" else "cast"
        raise ValueError(f"clips must be uint8 in [0, 255], not {batch.dtype}; {advice} to uint8")
    model.eval()
    return Features(*map(np.asarray, _forward(*resnet3d.split(model), batch)))


def _check_outputs(name: str, embedding: Array, pooled: Array) -> None:
    """Raise FloatingPointError if a network has no meaningful output."""
    norm = np.linalg.norm(np.asarray(embedding), axis=1)
    if np.isfinite(norm).all() and norm.all() and np.isfinite(pooled).all():
        return
    raise FloatingPointError(
        f"the network{f' {name}' if name else ''} has diverged: an embedding is zero or not "
        "finite; train it again with a lower learning_rate"
    )


@functools.partial(jax.jit, static_argnums=0)
def _forward(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    statistics: nnx.State,
    clip: UInt8[Array, "b t h w c"],
) -> tuple[Float[Array, "b d"], Float[Array, "b f"]]:
    model = nnx.merge(graphdef, params, statistics)
    inputs = augment.normalize(clip)
    return model(inputs), model.pooled(inputs)


def _mean(embedding: np.ndarray, pooled: np.ndarray, *, clips_per_video: int) -> Features:
    norm = np.linalg.norm(embedding, axis=1, keepdims=True)
    return Features(embedding / np.maximum(norm, 1e-12), pooled / clips_per_video)
