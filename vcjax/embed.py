"""Videos to embeddings: the mean over a few centre crops, several networks in one reading."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict

from vcjax import progress
from vcjax.data import augment, clips
from vcjax.data.manifest import Manifest
from vcjax.models import resnet3d
from vcjax.models.resnet3d import ResNet3D


class Embedded(NamedTuple):
    """One network's view of n videos, in the order of their manifest."""

    embedding: Float[np.ndarray, "n d"]  # unit L2 norm
    pooled: Float[np.ndarray, "n f"]  # what the head sees


def videos(
    models: Mapping[str, ResNet3D],
    manifest: Manifest,
    config: ConfigDict,
    *,
    clips_per_video: int,
    desc: str = "embed",
) -> dict[str, Embedded]:
    """Each model's embedding and pooled features of every video, means over its clips.

    Every clip is decoded once for all models.
    """
    batches = clips.evaluation_clips(
        manifest,
        num_frames=config.clip.num_frames,
        stride=config.clip.stride,
        side=config.clip.side,
        clips_per_video=clips_per_video,
        seed=config.seed,
        batch_size=config.evaluation.batch_size,
    )
    split = {}
    for name, model in models.items():
        model.eval()
        split[name] = resnet3d.split(model)
    sums: dict[str, list[np.ndarray]] = {}
    reading = clips.iterate(
        batches, num_workers=config.data.num_workers, num_threads=config.data.num_threads
    )
    for batch in progress.bar(reading, total=len(batches), desc=desc, unit="batch"):
        real = batch["index"] >= 0  # the last batch is filled up
        for name, (graphdef, params, statistics) in split.items():
            outputs = _forward(graphdef, params, statistics, batch["clip"])
            if name not in sums:
                sums[name] = [np.zeros((len(manifest), x.shape[1]), np.float32) for x in outputs]
            for total, output in zip(sums[name], outputs, strict=True):
                np.add.at(total, batch["index"][real], np.asarray(output)[real])
    return {name: _mean(*sums[name], clips_per_video=clips_per_video) for name in sums}


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


def _mean(embedding: np.ndarray, pooled: np.ndarray, *, clips_per_video: int) -> Embedded:
    norm = np.linalg.norm(embedding, axis=1, keepdims=True)
    return Embedded(embedding / np.maximum(norm, 1e-12), pooled / clips_per_video)
