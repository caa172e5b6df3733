"""3D convolution and max pooling in equivalent forms, each fast on some platform.

XLA's native 3D convolution is slow on CPUs, and its gradient is slower still. Three forms replace
it there: a sum of 2D convolutions, one per temporal tap of the kernel (several times faster); a
single matrix product for frames of a few pixels; and for the stem, whose wide kernel has three
input channels, a matrix product per clip with spatial taps as columns and temporal taps as outputs.

On NVIDIA GPUs the stem reads blocks of 2x2 pixels as channels, which took a training step on an
H100 from 120 to 77 ms (`docs/cost.md`), and max pooling is separable there too.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Clips = Float[Array, "b t h w c"]
Kernel = Float[Array, "kt kh kw c d"]
Stride = tuple[int, int, int]
Convolution = Callable[[Clips, Kernel, Stride], Clips]

_MAX_PRODUCT_PIXELS = 4  # largest frame for which the matrix product beats the sum of planes
_MAX_STEM_CHANNELS = 4  # a stem reads pixels; later layers have more channels


def conv3d(clips: Clips, kernel: Kernel, stride: Stride) -> Clips:
    """Convolve `clips`, padded by half the kernel, in the fastest form for the platform."""
    return jax.lax.platform_dependent(
        clips,
        kernel,
        cpu=lambda x, k: _for_cpu(x, k, stride),
        cuda=lambda x, k: _for_cuda(x, k, stride),
        default=lambda x, k: native(x, k, stride),
    )


def forms(platform: str) -> str:
    """Return the forms of the stem and of max pooling on a platform of JAX, for the log."""
    if platform == "cpu":
        return "stem by clips, max pooling by axes"
    if platform == "gpu":
        return "stem by blocks of 2x2 pixels, max pooling by axes"
    return "XLA's stem and max pooling"


def _for_cpu(clips: Clips, kernel: Kernel, stride: Stride) -> Clips:
    pixels = clips.shape[2] * clips.shape[3]
    if pixels <= _MAX_PRODUCT_PIXELS:
        return matrix_product(clips, kernel, stride)
    if clips.shape[4] <= _MAX_STEM_CHANNELS and stride[0] == 1:
        return product_by_clip(clips, kernel, stride)
    return sum_of_planes(clips, kernel, stride)


def _for_cuda(clips: Clips, kernel: Kernel, stride: Stride) -> Clips:
    if clips.shape[4] <= _MAX_STEM_CHANNELS and stride == (1, 2, 2):
        return space_to_depth(clips, kernel, stride)
    return native(clips, kernel, stride)


def native(clips: Clips, kernel: Kernel, stride: Stride) -> Clips:
    """Convolve with XLA's native 3D convolution."""
    return jax.lax.conv_general_dilated(
        clips,
        kernel,
        stride,
        [(size // 2, size // 2) for size in kernel.shape[:3]],
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )


def space_to_depth(clips: Clips, kernel: Kernel, stride: Stride) -> Clips:
    """Convolve blocks of 2x2 pixels, whose pixels become channels, at stride 1.

    A stride of 2 over c channels becomes a stride of 1 over 4 c channels with half as many taps per
    axis, which tensor cores compute faster when c is 3. The kernel is odd; one row and one column
    of zeros make it even.

    Raises:
      ValueError: if the stride is not (1, 2, 2).
    """
    if stride != (1, 2, 2):
        raise ValueError(f"stride is {stride}; space_to_depth computes a stride of (1, 2, 2)")
    b, t, h, w, c = clips.shape
    kt, kh, kw, _, d = kernel.shape
    clips = jnp.pad(clips, ((0, 0), (0, 0), (0, h % 2), (0, w % 2), (0, 0)))
    clips = clips.reshape(b, t, -(-h // 2), 2, -(-w // 2), 2, c)
    clips = clips.transpose(0, 1, 2, 4, 3, 5, 6).reshape(b, t, -(-h // 2), -(-w // 2), 4 * c)
    # out(i) = sum_j x(2i - r + j) k(j), r = size // 2: a block begins at an even offset from 2i
    zeros = [(1, 0) if size // 2 % 2 else (0, 1) for size in (kh, kw)]
    kernel = jnp.pad(kernel, ((0, 0), *zeros, (0, 0), (0, 0)))
    kernel = kernel.reshape(kt, (kh + 1) // 2, 2, (kw + 1) // 2, 2, c, d)
    kernel = kernel.transpose(0, 1, 3, 2, 4, 5, 6)
    kernel = kernel.reshape(kt, (kh + 1) // 2, (kw + 1) // 2, 4 * c, d)
    before = [(size // 2 + 1) // 2 for size in (kh, kw)]
    after = [(size + 1) // 2 - 1 - pad for size, pad in zip((kh, kw), before, strict=True)]
    return jax.lax.conv_general_dilated(
        clips,
        kernel,
        (1, 1, 1),
        [(kt // 2, kt // 2), *zip(before, after, strict=True)],
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )


def sum_of_planes(clips: Clips, kernel: Kernel, stride: Stride) -> Clips:
    """Convolve as the sum over temporal taps of a 2D convolution of all frames."""
    num_taps, reach = kernel.shape[0], kernel.shape[0] // 2
    padded = jnp.pad(clips, ((0, 0), (reach, reach), (0, 0), (0, 0), (0, 0)))
    length = (padded.shape[1] - num_taps) // stride[0] + 1
    planes = []
    for tap in range(num_taps):
        frames = padded[:, tap : tap + (length - 1) * stride[0] + 1 : stride[0]]
        plane = jax.lax.conv_general_dilated(
            frames.reshape(-1, *frames.shape[2:]),
            kernel[tap],
            stride[1:],
            [(size // 2, size // 2) for size in kernel.shape[1:3]],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        planes.append(plane)
    total = functools.reduce(jnp.add, planes)
    return total.reshape(clips.shape[0], length, *total.shape[1:])


def matrix_product(clips: Clips, kernel: Kernel, stride: Stride) -> Clips:
    """Convolve as a single product of all patches with the kernel reshaped to a matrix."""
    sizes = kernel.shape[:3]
    padded = jnp.pad(clips, ((0, 0), *((size // 2, size // 2) for size in sizes), (0, 0)))
    out = [(n - s) // d + 1 for n, s, d in zip(padded.shape[1:4], sizes, stride, strict=True)]
    last = [(n - 1) * d + 1 for n, d in zip(out, stride, strict=True)]
    columns = [
        padded[
            (slice(None), *(slice(o, o + n, d) for o, n, d in zip(at, last, stride, strict=True)))
        ]
        for at in np.ndindex(*sizes)
    ]
    return jnp.concatenate(columns, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product_by_clip(clips: Clips, kernel: Kernel, stride: Stride) -> Clips:
    """Convolve as a product per clip of spatial patches with a column per temporal tap and feature.

    The patches of a single clip fit into the processor's cache; the gradient recomputes them. The
    temporal stride must be 1.
    """
    num_taps, height, width, _, features = kernel.shape
    matrix = jnp.moveaxis(kernel, 0, 3).reshape(-1, num_taps * features)
    reach = num_taps // 2

    def one(clip: Float[Array, "t h w c"]) -> Float[Array, "t h w d"]:
        products = _patches(clip, (height, width), stride[1:]) @ matrix
        padded = jnp.pad(products, ((reach, reach), (0, 0), (0, 0), (0, 0)))
        length = len(clip)
        taps = [
            padded[tap : tap + length, ..., tap * features : (tap + 1) * features]
            for tap in range(num_taps)
        ]
        return functools.reduce(jnp.add, taps)

    return jax.lax.map(one, clips)


def _forward_by_clip(clips: Clips, kernel: Kernel, stride: Stride) -> tuple[Clips, tuple]:
    return product_by_clip(clips, kernel, stride), (clips, kernel)


def _backward_by_clip(stride: Stride, saved: tuple, gradient: Clips) -> tuple[Clips, Kernel]:
    clips, kernel = saved
    num_taps, height, width, channels, features = kernel.shape
    reach = num_taps // 2

    def add(total: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        clip, gradient = pair
        patches = _patches(clip, (height, width), stride[1:])
        padded = jnp.pad(gradient, ((reach, reach), (0, 0), (0, 0), (0, 0)))
        starts = range(num_taps - 1, -1, -1)
        taps = jnp.concatenate([padded[start : start + len(clip)] for start in starts], -1)
        pixels = patches.reshape(-1, patches.shape[-1])
        return total + pixels.T @ taps.reshape(len(pixels), -1), None

    zero = jnp.zeros((height * width * channels, num_taps * features), kernel.dtype)
    total, _ = jax.lax.scan(add, zero, (clips, gradient))
    for_kernel = total.reshape(height, width, channels, num_taps, features)
    _, pull = jax.vjp(lambda x: sum_of_planes(x, kernel, stride), clips)
    return pull(gradient)[0], jnp.moveaxis(for_kernel, 3, 0)


product_by_clip.defvjp(_forward_by_clip, _backward_by_clip)


def _patches(
    clip: Float[Array, "t h w c"], size: tuple[int, int], stride: tuple[int, int]
) -> Float[Array, "t h2 w2 p"]:
    """Return the zero-padded patch of every output pixel, flattened as (row, column, channel).

    Columns are gathered before rows, so that the second copy moves longer runs of memory.
    """
    for axis in (2, 1):
        length = (clip.shape[axis] - 1) // stride[axis - 1] + 1
        taps, step = size[axis - 1], stride[axis - 1]
        pad = [(0, 0)] * 4
        pad[axis] = (taps // 2, taps // 2)
        padded = jnp.pad(clip, pad)
        clip = jnp.concatenate(
            [
                jax.lax.slice_in_dim(padded, at, at + (length - 1) * step + 1, step, axis)
                for at in range(taps)
            ],
            axis=-1,
        )
        # keeps XLA from fusing both copies into one by pixels
        clip = jax.lax.optimization_barrier(clip)
    return clip


def max_pool(clips: Clips) -> Clips:
    """Return the maximum over 3x3x3 windows at stride 2, padded by one element of -inf."""
    return jax.lax.platform_dependent(
        clips, cpu=separable_max_pool, cuda=separable_max_pool, default=native_max_pool
    )


def native_max_pool(clips: Clips) -> Clips:
    """Pool with XLA's native window reduction."""
    return jax.lax.reduce_window(
        clips,
        -jnp.inf,
        jax.lax.max,
        (1, 3, 3, 3, 1),
        (1, 2, 2, 2, 1),
        ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)),
    )


def separable_max_pool(clips: Clips) -> Clips:
    """Pool one axis at a time, as the maximum of three strided slices."""
    for axis in (1, 2, 3):
        pad = [(0, 0)] * 5
        pad[axis] = (1, 1)
        padded = jnp.pad(clips, pad, constant_values=-jnp.inf)
        length = (clips.shape[axis] - 1) // 2 + 1
        taps = [
            jax.lax.slice_in_dim(padded, tap, tap + 2 * length - 1, stride=2, axis=axis)
            for tap in range(3)
        ]
        clips = jnp.maximum(jnp.maximum(taps[0], taps[1]), taps[2])
    return clips
