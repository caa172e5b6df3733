"""Orientation of a keypoint, and the descriptor of the patch around it in this orientation."""

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from numba import njit

from vcjax.idt import descriptors
from vcjax.idt.surf.keypoints import Keypoints, Sums

SIZE = 128  # values of a descriptor: 4 x 4 cells of 8 sums
_ONE = np.float32(1)
_RADIUS = 6  # of the disk for the orientation, in units of the keypoint's scale
_WINDOW = 60  # degrees
_TURN = 5  # degrees between successive windows
_PATCH = 20  # gradients along a side of the patch
_CELL = 5  # gradients along a side of a cell
_NUM_KINDS = 8


def _disk() -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
    """Return the offsets (x, y) of the disk and their Gaussian weights."""
    gauss = cv2.getGaussianKernel(2 * _RADIUS + 1, 2.5, cv2.CV_32F)
    x, y = np.mgrid[-_RADIUS : _RADIUS + 1, -_RADIUS : _RADIUS + 1].astype(np.float32)
    inside = x**2 + y**2 <= _RADIUS**2
    return np.stack([x[inside], y[inside]], axis=1), (gauss * gauss.T)[inside]


_OFFSETS, _OFFSET_WEIGHTS = _disk()
_PATCH_GAUSS = cv2.getGaussianKernel(_PATCH, 3.3, cv2.CV_32F)
_PATCH_WEIGHTS = _PATCH_GAUSS * _PATCH_GAUSS.T


def orientations(sums: Sums, keypoints: Keypoints) -> Float[np.ndarray, " n"]:
    """Return the dominant gradient direction of each keypoint in degrees, or -1 without any."""
    return _orientations(sums, keypoints, _OFFSETS, _OFFSET_WEIGHTS)


def describe(
    image: UInt8[np.ndarray, "h w"], keypoints: Keypoints, angles: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n 128"]:
    """Return descriptors of unit norm of the patches around the keypoints, rotated by `angles`.

    Each cell has eight values, first for the x and then for the y component of the gradient: its
    sum and absolute sum over pixels whose other component is not negative, then over the rest.
    """
    radians = angles * np.float32(np.pi / 180)
    return _describe(image, keypoints, np.cos(radians), -np.sin(radians), _PATCH_WEIGHTS)


@njit(cache=True, error_model="numpy")
def _orientations(
    sums: Sums,
    keypoints: Keypoints,
    offsets: Float[np.ndarray, "samples 2"],
    weights: Float[np.ndarray, " samples"],
) -> Float[np.ndarray, " n"]:
    out = np.empty(len(keypoints), np.float32)
    gradients = np.empty((2, len(offsets)), np.float32)
    degrees = np.empty(len(offsets), np.int32)
    for k in range(len(keypoints)):
        count = _sample_disk(sums, keypoints[k], offsets, weights, gradients)
        for i in range(count):
            angle = descriptors.degrees(gradients[0, i], gradients[1, i])
            degrees[i] = int(np.rint(angle))
        out[k] = _dominant(gradients[:, :count], degrees)
    return out


@njit(inline="always")
def _scale(side: np.float32) -> np.float32:
    """Return the sigma of the Gaussian that a box filter of this side approximates."""
    return side * np.float32(1.2) / np.float32(9)


@njit(cache=True, error_model="numpy")
def _sample_disk(
    sums: Sums,
    keypoint: Float[np.ndarray, " 3"],
    offsets: Float[np.ndarray, "samples 2"],
    weights: Float[np.ndarray, " samples"],
    out: Float[np.ndarray, "2 samples"],
) -> int:
    """Write the weighted gradients in the disk; return the number that is within the image.

    A gradient is the difference of the two halves of a square filter.
    """
    scale = _scale(keypoint[2])
    half = int(np.rint(np.float32(2) * scale))
    side = 2 * half
    rows, columns = sums.shape
    share = _ONE / np.float32(side * half)
    shift = np.float32(side - 1) / np.float32(2)
    count = 0
    for i in range(len(offsets)):
        x = int(np.rint(keypoint[0] + offsets[i, 0] * scale - shift))
        y = int(np.rint(keypoint[1] + offsets[i, 1] * scale - shift))
        if 0 <= x < columns - side and 0 <= y < rows - side:
            top, middle, bottom = sums[y], sums[y + half], sums[y + side]
            upper = top[x] + middle[x + side] - top[x + side] - middle[x]
            lower = middle[x] + bottom[x + side] - middle[x + side] - bottom[x]
            left = top[x] + bottom[x + half] - top[x + half] - bottom[x]
            right = top[x + half] + bottom[x + side] - top[x + side] - bottom[x + half]
            dx = np.float64(np.float32(right) * share) - np.float64(np.float32(left) * share)
            dy = np.float64(np.float32(upper) * share) - np.float64(np.float32(lower) * share)
            out[0, count] = np.float32(dx) * weights[i]
            out[1, count] = np.float32(dy) * weights[i]
            count += 1
    return count


@njit(cache=True, error_model="numpy")
def _dominant(
    gradients: Float[np.ndarray, "2 n"], degrees: Int[np.ndarray, " samples"]
) -> np.float32:
    """Return the direction, in degrees, of the longest sum of gradients in a sliding window."""
    best, best_x, best_y = np.float32(0), np.float32(0), np.float32(0)
    num = gradients.shape[1]
    for middle in range(0, 360, _TURN):
        sum_x, sum_y = np.float32(0), np.float32(0)
        for i in range(num):
            distance = abs(degrees[i] - middle)
            if distance < _WINDOW // 2 or distance > 360 - _WINDOW // 2:
                sum_x += gradients[0, i]
                sum_y += gradients[1, i]
        length = sum_x * sum_x + sum_y * sum_y
        if length > best:
            best, best_x, best_y = length, sum_x, sum_y
    return descriptors.degrees(best_x, -best_y) if num else np.float32(-1)


@njit(cache=True, error_model="numpy")
def _describe(
    image: UInt8[np.ndarray, "h w"],
    keypoints: Keypoints,
    cosines: Float[np.ndarray, " n"],
    sines: Float[np.ndarray, " n"],
    weights: Float[np.ndarray, "20 20"],
) -> Float[np.ndarray, "n 128"]:
    out = np.zeros((len(keypoints), SIZE), np.float32)
    patch = np.empty((_PATCH + 1, _PATCH + 1), np.int32)
    for k in range(len(keypoints)):
        scale = _scale(keypoints[k, 2])
        side = int(np.float32(_PATCH + 1) * scale)
        window = _turned(image, keypoints[k, 0], keypoints[k, 1], side, cosines[k], sines[k])
        shrink(window, patch)
        _accumulate(patch, weights, out[k])
    return out


@njit(cache=True, error_model="numpy")
def _turned(
    image: UInt8[np.ndarray, "h w"], x: float, y: float, side: int, cosine: float, sine: float
) -> UInt8[np.ndarray, "side side"]:
    """Return the rotated square around (x, y), bilinear; borders of the image are replicated."""
    height, width = image.shape
    out = np.empty((side, side), np.uint8)
    offset = -np.float32(side - 1) / np.float32(2)
    start_x = x + offset * cosine + offset * sine
    start_y = y - offset * sine + offset * cosine
    for i in range(side):
        at_x, at_y = np.float64(start_x), np.float64(start_y)
        for j in range(side):
            left, top = int(np.floor(at_x)), int(np.floor(at_y))
            if 0 <= left < width - 1 and 0 <= top < height - 1:
                a, b = np.float32(at_x - left), np.float32(at_y - top)
                u, v = (
                    np.uint64(left),
                    np.uint64(top),
                )  # unsigned, or numba would check for negative values
                u1, v1 = np.uint64(left + 1), np.uint64(top + 1)
                value = (
                    np.float32(image[v, u]) * (_ONE - a) * (_ONE - b)
                    + np.float32(image[v, u1]) * a * (_ONE - b)
                    + np.float32(image[v1, u]) * (_ONE - a) * b
                    + np.float32(image[v1, u1]) * a * b
                )
                out[i, j] = int(np.rint(value))
            else:
                near_x = min(max(int(np.rint(at_x)), 0), width - 1)
                near_y = min(max(int(np.rint(at_y)), 0), height - 1)
                out[i, j] = image[near_y, near_x]
            at_x += np.float64(cosine)
            at_y -= np.float64(sine)
        start_x += sine
        start_y += cosine
    return out


@njit(cache=True, error_model="numpy")
def shrink(window: UInt8[np.ndarray, "side side"], out: Int[np.ndarray, "small small"]) -> None:
    """Write the rounded mean of the window under each pixel of `out`, which is smaller."""
    side, small = len(window), len(out)
    if side % small == 0:
        _shrink_evenly(window, side // small, out)
        return
    first, num, weights = _shares(side, small)
    row, total = np.empty(small, np.float32), np.empty(small, np.float32)
    for i in range(small):
        total[:] = 0
        for k in range(num[i]):
            source = window[first[i] + k]
            for j in range(small):
                part = np.float32(0)
                for m in range(num[j]):
                    part += np.float32(source[first[j] + m]) * weights[j, m]
                row[j] = part
            for j in range(small):
                total[j] += weights[i, k] * row[j]
        for j in range(small):
            out[i, j] = int(np.rint(total[j]))


@njit(cache=True, error_model="numpy")
def _shrink_evenly(
    window: UInt8[np.ndarray, "side side"], ratio: int, out: Int[np.ndarray, "small small"]
) -> None:
    share = _ONE / np.float32(ratio * ratio)
    for i in range(len(out)):
        for j in range(len(out)):
            total = 0
            for y in range(ratio * i, ratio * (i + 1)):
                for x in range(ratio * j, ratio * (j + 1)):
                    total += window[y, x]
            # OpenCV rounds half up for a ratio of 2, and half to even otherwise
            out[i, j] = (total + 2) >> 2 if ratio == 2 else int(np.rint(np.float32(total) * share))


@njit(cache=True, error_model="numpy")
def _shares(
    side: int, small: int
) -> tuple[Int[np.ndarray, " small"], Int[np.ndarray, " small"], Float[np.ndarray, "small taps"]]:
    """Return the first pixel under each smaller pixel, their number, and the weight of each."""
    ratio = 1 / (small / side)
    first, num = np.empty(small, np.int64), np.empty(small, np.int64)
    weights = np.empty((small, int(ratio) + 3), np.float32)
    for i in range(small):
        start, stop = i * ratio, (i + 1) * ratio
        width = min(ratio, side - start)
        whole, end = int(np.ceil(start)), min(int(np.floor(stop)), side - 1)
        whole = min(whole, end)
        count = 0
        first[i] = whole
        if whole - start > 1e-3:
            first[i] = whole - 1
            weights[i, count] = (whole - start) / width
            count += 1
        for _ in range(whole, end):
            weights[i, count] = 1 / width
            count += 1
        if stop - end > 1e-3:
            weights[i, count] = min(stop - end, 1, width) / width
            count += 1
        num[i] = count
    return first, num, weights


@njit(cache=True, error_model="numpy")
def _accumulate(
    patch: Int[np.ndarray, "21 21"],
    weights: Float[np.ndarray, "20 20"],
    out: Float[np.ndarray, " 128"],
) -> None:
    """Add the weighted gradients of the patch to their cells, and scale to unit norm."""
    for y in range(_PATCH):
        for x in range(_PATCH):
            rising, falling = patch[y + 1, x + 1] - patch[y, x], patch[y + 1, x] - patch[y, x + 1]
            dx = np.float32(rising - falling) * weights[y, x]
            dy = np.float32(rising + falling) * weights[y, x]
            cell = _NUM_KINDS * (_PATCH // _CELL * (y // _CELL) + x // _CELL)
            at = cell if dy >= 0 else cell + 2
            out[at] += dx
            out[at + 1] += abs(dx)
            at = cell + 4 if dx >= 0 else cell + 6
            out[at] += dy
            out[at + 1] += abs(dy)
    square = np.float64(0)
    for i in range(len(out)):
        square += np.float64(out[i] * out[i])
    scale = np.float32(1 / (np.sqrt(square) + 2.0**-52))
    for i in range(len(out)):
        out[i] *= scale
