"""Augmentation of clips on the device, and mean subtraction (Sec. 4.2).

Horizontal flips, grayscale and color jitter are drawn once per clip and apply to all of its frames.
Brightness, contrast, saturation and hue are adjusted in this order, as torchvision's ColorJitter
defines them. The paper does not mention grayscale and jitter; they follow the authors' code.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8, UInt32

from vcjax.runtime import checks

MEAN = (114.7748 / 255, 107.7354 / 255, 99.4750 / 255)  # RGB mean of ActivityNet (Hara et al. 2018)
_LUMINANCE = (0.299, 0.587, 0.114)


@checks.arguments
def normalize(clips: UInt8[Array, "b t h w 3"]) -> Float[Array, "b t h w 3"]:
    """Return clips scaled to [0, 1] minus the mean color."""
    return clips.astype(jnp.float32) / 255 - jnp.array(MEAN).reshape(1, 1, 1, 1, 3)


@checks.arguments
def augment(
    clips: UInt8[Array, "b t h w 3"],
    keys: UInt32[Array, " b"],
    *,
    flip: float = 0.5,
    grayscale: float = 0.2,
    jitter: Sequence[float] = (0.4, 0.4, 0.4, 0.4),
) -> Float[Array, "b t h w 3"]:
    """Return randomly augmented clips, scaled to [0, 1] minus the mean color.

    Args:
      clips: RGB in [0, 255].
      keys: seed of each clip.
      flip: probability of a horizontal flip.
      grayscale: probability that a clip loses its color.
      jitter: ranges of brightness, contrast and saturation, each a factor drawn uniformly from
        [1 - range, 1 + range], and of hue, turns of the color circle from [-range, range].
    """

    def one(clip: Array, key: Array) -> Array:
        draws = jax.random.uniform(jax.random.key(key), (6,))
        factors = [1 + r * (2 * u - 1) for r, u in zip(jitter[:3], draws[:3], strict=True)]
        clip = clip.astype(jnp.float32) / 255
        clip = jnp.where(draws[4] < flip, clip[:, :, ::-1], clip)
        clip = adjust_brightness(clip, factors[0])
        clip = adjust_contrast(clip, factors[1])
        clip = adjust_saturation(clip, factors[2])
        clip = adjust_hue(clip, jitter[3] * (2 * draws[3] - 1))
        return jnp.where(draws[5] < grayscale, _gray(clip), clip)

    return jax.vmap(one)(clips, keys) - jnp.array(MEAN).reshape(1, 1, 1, 1, 3)


def adjust_brightness(clip: Float[Array, "t h w 3"], factor: Array) -> Float[Array, "t h w 3"]:
    """Return colors times `factor`, clipped to [0, 1]."""
    return jnp.clip(clip * factor, 0, 1)


def adjust_contrast(clip: Float[Array, "t h w 3"], factor: Array) -> Float[Array, "t h w 3"]:
    """Return colors moved toward (factor < 1) or away from the mean luminance of the clip."""
    return jnp.clip(factor * clip + (1 - factor) * jnp.mean(_gray(clip)), 0, 1)


def adjust_saturation(clip: Float[Array, "t h w 3"], factor: Array) -> Float[Array, "t h w 3"]:
    """Return colors moved toward (factor < 1) or away from the luminance of their pixel."""
    return jnp.clip(factor * clip + (1 - factor) * _gray(clip), 0, 1)


def adjust_hue(clip: Float[Array, "t h w 3"], turns: Array) -> Float[Array, "t h w 3"]:
    """Return colors rotated by `turns` of the color circle, of equal value and saturation (HSV)."""
    red, green, blue = clip[..., 0], clip[..., 1], clip[..., 2]
    high = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = high - jnp.minimum(jnp.minimum(red, green), blue)
    safe = jnp.where(chroma > 0, chroma, 1.0)
    # Not `high == red`: XLA may compute a value in two kernels and round it differently in each.
    hue = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / safe,
        jnp.where(green >= blue, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * turns
    # HSV to RGB: each channel is `high` minus the chroma times a trapezoid of the hue.
    channels = []
    for offset in (5.0, 3.0, 1.0):
        k = offset + hue
        k -= 6 * jnp.floor(k / 6)  # much faster than jnp.mod on CPUs
        channels.append(high - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1))
    return jnp.moveaxis(jnp.stack(channels), 0, -1)


def _gray(clip: Float[Array, "t h w 3"]) -> Float[Array, "t h w 3"]:
    # Channel by channel, which fuses with its neighbors; a product over three channels would not.
    red, green, blue = (weight * clip[..., i] for i, weight in enumerate(_LUMINANCE))
    return jnp.broadcast_to((red + green + blue)[..., None], clip.shape)
