"""Image pyramid of a frame: sizes, grayscale levels for tracks, blurred levels for the flow."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from vcjax.idt.trajectories import IdtSettings

PATCH = 32  # pixels, side of the square patch described around a point

Sizes = tuple[tuple[int, int], ...]  # (height, width) of each level


def scales(settings: IdtSettings) -> tuple[float, ...]:
    """Return how many times coarser each level is than the frame, finest first.

    The list contains `max_scales` levels, also for frames that are too small for the coarsest. The
    scales are multiplied up in float32, as in the published program: the fifth is just below 4,
    which narrows the blur of that level from 9 taps to 7.
    """
    stride = np.float32(settings.stride)
    products = np.cumprod(np.full(settings.max_scales - 1, stride), dtype=np.float32)
    return (1.0, *products.tolist())


def sizes(height: int, width: int, settings: IdtSettings) -> Sizes:
    """Return the height and width of each level, finest first; the coarsest contains a patch.

    Raises:
        ValueError: If the frame is smaller than a patch.
    """
    if min(height, width) < PATCH:
        raise ValueError(
            f"frames of {width} x {height} pixels are too small; "
            f"trajectories need at least {PATCH} x {PATCH}"
        )
    return tuple(
        (round(height / scale), round(width / scale))
        for scale in scales(settings)
        if min(height, width) / scale >= PATCH
    )


def gray(
    image: UInt8[np.ndarray, "h w"], sizes: Sizes
) -> list[UInt8[np.ndarray, "h_level w_level"]]:
    """Return the grayscale levels, each resized from the next finer level."""
    levels = [image]
    for height, width in sizes[1:]:
        levels.append(cv2.resize(levels[-1], (width, height), interpolation=cv2.INTER_LINEAR))
    return levels


def smoothed(
    image: UInt8[np.ndarray, "h w"], sizes: Sizes, settings: IdtSettings
) -> list[Float[np.ndarray, "h_level w_level"]]:
    """Return the levels in float32: the frame blurred by (scale - 1) / 2 pixels, then resized."""
    full = image.astype(np.float32)
    levels = []
    for scale, (height, width) in zip(scales(settings), sizes, strict=False):
        sigma = (scale - 1) / 2
        side = max(round(5 * sigma) | 1, 3)
        blurred = cv2.GaussianBlur(full, (side, side), sigma)
        levels.append(cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR))
    return levels


def resized(
    flow: Float[np.ndarray, "2 h w"], size: Sequence[int]
) -> Float[np.ndarray, "2 h_new w_new"]:
    """Return the flow resized to (height, width); its values are not rescaled."""
    height, width = size
    out = np.empty((2, height, width), np.float32)
    for component, part in zip(flow, out, strict=True):
        cv2.resize(component, (width, height), dst=part, interpolation=cv2.INTER_LINEAR)
    return out
