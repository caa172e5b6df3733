"""Embeddings and other features of videos and of windows, as means over center crops."""

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict

from vcjax.data import augment, clips, windows
from vcjax.data.manifest import Manifest
from vcjax.data.windows import Cut, Windows
from vcjax.models import resnet3d
from vcjax.models.resnet3d import ResNet3D
from vcjax.runtime import checks, progress

# clips, uint8 [b, t, h, w, 3] -> arrays with one row per clip
Forward = Callable[[np.ndarray], tuple[Array, ...]]


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
    means = layer_means(
        models,
        ("embedding", "pooled"),
        manifest,
        config,
        clips_per_video=clips_per_video,
        desc=desc,
        skip_bad=skip_bad,
    )
    return {name: Features(**layers) for name, layers in means.items()}


def layer_means(
    models: Mapping[str, ResNet3D],
    layers: Sequence[str],
    manifest: Manifest,
    config: ConfigDict,
    *,
    clips_per_video: int,
    desc: str = "embed",
    skip_bad: bool = False,
) -> dict[str, dict[str, Float[np.ndarray, "n _"]]]:
    """Return {name: {layer: features}} of every video; arguments and errors as for `videos`.

    `layers` are names of `resnet3d.LAYERS`.
    """
    checks.count("clips_per_video", clips_per_video)
    forwards = {name: forward(model, layers) for name, model in models.items()}
    sums: dict[str, list[np.ndarray]] = {}
    for batch in batches(
        manifest, config, clips_per_video=clips_per_video, desc=desc, skip_bad=skip_bad
    ):
        real = batch["index"] >= 0
        for name, run in forwards.items():
            outputs = run(batch["clip"])
            if name not in sums:
                sums[name] = [np.zeros((len(manifest), x.shape[1]), np.float32) for x in outputs]
            for layer, total, output in zip(layers, sums[name], outputs, strict=True):
                _check_output(name, layer, output)
                np.add.at(total, batch["index"][real], np.asarray(output)[real])
    return {
        name: {k: _mean(k, s, clips_per_video) for k, s in zip(layers, totals, strict=True)}
        for name, totals in sums.items()
    }


def forward(model: ResNet3D, layers: Sequence[str]) -> Forward:
    """Return a compiled function from clips in [0, 255] to the outputs of `layers` of `model`."""
    model.eval()
    return functools.partial(_forward, tuple(layers), *resnet3d.split(model))


def window_means(
    run: Forward, manifest: Manifest, listed: Windows, cut: Cut, *, batch_size: int
) -> list[Float[np.ndarray, "m _"]]:
    """Return the outputs of `run` for every window, as means over the clips of the window.

    Args:
        run: Function from a batch of clips to arrays with one row per clip.
        manifest: The videos.
        listed: Their windows.
        cut: The clips of a window.
        batch_size: Clips per step; batches extend over videos.
    """
    sums: list[np.ndarray] = []
    counts = np.zeros(len(listed.row))
    pending: list[tuple[list[int], tuple[Array, ...]]] = []

    def collect() -> None:
        numbers, outputs = pending.pop()
        for output in outputs:
            if not np.isfinite(output).all():
                raise FloatingPointError("an output of the network is not finite: it has diverged")
        if not sums:
            sums.extend(np.zeros((len(counts), x.shape[1]), np.float32) for x in outputs)
        for total, output in zip(sums, outputs, strict=True):
            np.add.at(total, numbers, np.asarray(output)[: len(numbers)])
        np.add.at(counts, numbers, 1)

    reading = windows.read(manifest, listed, cut)
    bar = progress.bar(desc="windows", unit="clip")
    while part := list(itertools.islice(reading, batch_size)):
        numbers = [number for number, _ in part]
        clip = np.stack([clip for _, clip in part])
        clip = np.pad(clip, [(0, batch_size - len(part)), *[(0, 0)] * 4])  # one compiled shape
        # the device computes this batch while the previous one is collected
        outputs = run(clip)
        if pending:
            collect()
        pending.append((numbers, outputs))
        bar.update(len(part))
    collect()
    return [total / counts[:, None] for total in sums]


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
    return Features(*map(np.asarray, forward(model, ("embedding", "pooled"))(batch)))


def _check_output(name: str, layer: str, output: Array) -> None:
    """Raise FloatingPointError if a network has no meaningful output."""
    values = np.asarray(output)
    if np.isfinite(values).all() and (layer != "embedding" or values.any(axis=1).all()):
        return
    raise FloatingPointError(
        f"the network{f' {name}' if name else ''} has diverged: an embedding is zero or not "
        "finite; train it again with a lower learning_rate"
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(
    layers: tuple[str, ...],
    graphdef: nnx.GraphDef,
    params: nnx.State,
    statistics: nnx.State,
    clip: UInt8[Array, "b t h w c"],
) -> tuple[Float[Array, "b _"], ...]:
    model = nnx.merge(graphdef, params, statistics)
    inputs = augment.normalize(clip)
    return tuple(model.layer(inputs, layer) for layer in layers)


def _mean(layer: str, total: np.ndarray, clips_per_video: int) -> np.ndarray:
    if layer != "embedding":
        return total / clips_per_video
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
