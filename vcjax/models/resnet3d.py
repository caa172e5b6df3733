"""3D ResNet of Hara et al. (2018), depth 18 or 34, with a linear embedding head (Sec. 4.2)."""

import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from vcjax.models import conv3d
from vcjax.runtime import checks

STAGE_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}

LAYERS = ("stem", "stage1", "stage2", "stage3", "stage4", "pooled", "embedding")

Clips = Float[Array, "b t h w c"]


class Conv3d(nnx.Module):
    """A convolution without bias, padded by half its kernel, with He initialization by fan-in."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        size: int,
        *,
        stride: tuple[int, int, int] = (1, 1, 1),
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        initializer = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
        shape = (size, size, size, features_in, features_out)
        self.kernel = nnx.Param(initializer(rngs.params(), shape, jnp.float32))
        self.stride, self.dtype = stride, dtype

    def __call__(self, clips: Clips) -> Clips:
        """Convolve `clips` in the precision of the layer."""
        kernel = self.kernel[...].astype(self.dtype)
        return conv3d.conv3d(clips.astype(self.dtype), kernel, self.stride)


class BatchNorm(nnx.BatchNorm):
    """Batch normalization in float32, rounded once to the precision of the activations.

    Statistics are over the batch of all devices. With scale and bias in bfloat16, their gradients
    would be sums of many thousands of values in bfloat16.
    """

    def __init__(self, features: int, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        # momentum=0.9 here is PyTorch's 0.1
        super().__init__(features, momentum=0.9, epsilon=1e-5, dtype=jnp.float32, rngs=rngs)
        self.activation_dtype = dtype

    def __call__(
        self, x: Any, use_running_average: bool | None = None, *, mask: Array | None = None
    ) -> Any:
        """Return `x` normalized, in the precision of the activations."""
        return super().__call__(x, use_running_average, mask=mask).astype(self.activation_dtype)


class BasicBlock(nnx.Module):
    """Two 3x3x3 convolutions with a shortcut that is projected if the shape changes (type B)."""

    def __init__(
        self, features_in: int, features: int, *, stride: int, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        conv = functools.partial(Conv3d, dtype=dtype, rngs=rngs)
        norm = functools.partial(BatchNorm, dtype=dtype, rngs=rngs)
        strides = (stride, stride, stride)
        self.first, self.first_norm = conv(features_in, features, 3, stride=strides), norm(features)
        self.second, self.second_norm = conv(features, features, 3), norm(features)
        self.projects = stride != 1 or features_in != features
        if self.projects:
            self.shortcut = conv(features_in, features, 1, stride=strides)
            self.shortcut_norm = norm(features)

    def __call__(self, clips: Clips) -> Clips:
        """Return the sum of both branches after a ReLU."""
        hidden = nnx.relu(self.first_norm(self.first(clips)))
        hidden = self.second_norm(self.second(hidden))
        shortcut = self.shortcut_norm(self.shortcut(clips)) if self.projects else clips
        return nnx.relu(hidden + shortcut)


class ResNet3D(nnx.Module):
    """3D ResNet from mean-subtracted clips [b, t, h, w, 3] to unit embeddings [b, embedding_dim].

    Raises:
      ValueError: if `depth` is not a key of `STAGE_BLOCKS`, if a size is not positive, or if clips
        are not floats [b, t, h, w, 3].
    """

    @checks.arguments
    def __init__(
        self,
        *,
        depth: int = 18,
        width: int = 64,
        embedding_dim: int = 128,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if depth not in STAGE_BLOCKS:
            raise ValueError(f"model.depth is {depth}; use {' or '.join(map(str, STAGE_BLOCKS))}")
        checks.count("width", width)
        checks.count("embedding_dim", embedding_dim)
        self.stem = Conv3d(3, width, 7, stride=(1, 2, 2), dtype=dtype, rngs=rngs)
        self.stem_norm = BatchNorm(width, dtype=dtype, rngs=rngs)
        stages, features_in = [], width
        for stage, num_blocks in enumerate(STAGE_BLOCKS[depth]):
            features, blocks = width * 2**stage, []
            for block in range(num_blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(
                    BasicBlock(features_in, features, stride=stride, dtype=dtype, rngs=rngs)
                )
                features_in = features
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.head = nnx.Linear(
            features_in,
            embedding_dim,
            kernel_init=nnx.initializers.xavier_uniform(),
            rngs=rngs,
        )

    @checks.arguments
    def pooled(self, clips: Clips) -> Float[Array, "b f"]:
        """Return float32 features before the head (f = 8 * width), averaged over time and space."""
        return self._averaged(clips)[-1]

    def layer(self, clips: Clips, name: str) -> Float[Array, "b f"]:
        """Return the output of a layer of LAYERS, averaged over time and space in float32.

        The layer "pooled" is the same as "stage4"; "embedding" has unit L2 norm.

        Raises:
          ValueError: if there is no such layer, or clips are not floats [b, t, h, w, 3].
        """
        if name not in LAYERS:
            raise ValueError(f"no layer {name!r}; use one of {', '.join(LAYERS)}")
        if name == "embedding":
            return self(clips)
        return self._averaged(clips)[min(LAYERS.index(name), len(self.stages))]

    def _averaged(self, clips: Clips) -> list[Float[Array, "b _"]]:
        """Return the averages of the stem and of each stage. XLA omits the ones not used."""
        checks.array("clips", clips, "b t h w 3")
        if not jnp.issubdtype(clips.dtype, jnp.floating):
            raise ValueError(
                f"clips must be mean-subtracted floats, not {clips.dtype}; pass pictures in "
                "[0, 255] to vcjax.load(...) or vcjax.inference.clips_of"
            )
        hidden = nnx.relu(self.stem_norm(self.stem(clips)))
        averages = [hidden.astype(jnp.float32).mean(axis=(1, 2, 3))]
        hidden = conv3d.max_pool(hidden)
        for stage in self.stages:
            for block in stage:
                hidden = block(hidden)
            averages.append(hidden.astype(jnp.float32).mean(axis=(1, 2, 3)))
        return averages

    def __call__(self, clips: Clips) -> Float[Array, "b d"]:
        """Return embeddings of unit L2 norm."""
        embedding = self.head(self.pooled(clips))
        return embedding / jnp.linalg.norm(embedding, axis=-1, keepdims=True).clip(1e-12)


@checks.arguments
def split(model: ResNet3D) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """Return the structure of the network, its parameters and its running statistics."""
    graphdef, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graphdef, states[0], states[1]


def digest(model: ResNet3D) -> str:
    """Return a hash of the weights and statistics, and of the precision of the activations."""
    content = hashlib.sha256(str(jnp.dtype(model.stem.dtype)).encode())
    for path, value in jax.tree_util.tree_leaves_with_path(nnx.state(model)):
        array = np.asarray(value)
        content.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        content.update(array.tobytes())
    return content.hexdigest()


def decayed(params: nnx.State) -> nnx.State:
    """Return a mask that is True for parameters with weight decay: all but normalization layers."""

    def is_decayed(path: tuple, value: Array) -> bool:
        return not any("norm" in str(getattr(entry, "key", entry)) for entry in path)

    return jax.tree_util.tree_map_with_path(is_decayed, params)
