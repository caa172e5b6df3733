"""Optical flow by polynomial expansion (Farneback 2003), median-filtered at every scale.

The flow of each scale passes through a 5 x 5 median before it initializes the next finer scale,
which OpenCV's function does not support. Points follow this flow (Wang & Schmid 2013, Sec. 3.1).
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Int
from numba import njit

from vcjax.idt import pyramid

NUM_ITERATIONS = 2
_RADIUS = 7  # pixels, of the neighborhood in which a polynomial is fitted
_SIGMA = 1.5
_WINDOW_RADIUS = 5  # pixels, of the window over which displacements are pooled
_WINDOW_SIGMA = 1.5
_REGULARIZER = 1e-3  # added to the determinant, so that flat regions do not move
# Weights of the expansion near the border, from the border inward.
_TRUST = np.array([0.14, 0.14, 0.4472, 0.4472, 0.4472], np.float32)

Flow = Float[np.ndarray, "2 h w"]  # x, y
Row = Float[np.ndarray, " w"]
Taps = tuple[np.float32, ...]  # weights of a filter from its center outward
Expansion = Float[np.ndarray, "5 h w"]  # coefficients of y, x, y^2, x^2, xy at each pixel


def _fit_weights() -> tuple[tuple[Taps, ...], Taps]:
    """Return g, x g and x^2 g of the fit's Gaussian for x >= 0, and the inverse moments needed."""
    x = np.arange(-_RADIUS, _RADIUS + 1, dtype=np.float64)
    g = np.exp(-(x**2) / (2 * _SIGMA**2)).astype(np.float32).astype(np.float64)
    g /= g.sum()
    basis_x, basis_y = (b.ravel() for b in np.meshgrid(x, x))
    basis = np.stack([np.ones_like(basis_x), basis_x, basis_x**2, basis_y**2, basis_x * basis_y])
    inverse = np.linalg.inv((basis * np.outer(g, g).ravel()) @ basis.T)
    moments = np.array([inverse[1, 1], inverse[0, 2], inverse[2, 2], inverse[4, 4]])
    half = slice(_RADIUS, None)
    weights = np.stack([g[half], (x * g)[half], (x * x * g)[half]])
    return tuple(tuple(w) for w in weights.astype(np.float32)), tuple(moments.astype(np.float32))


_WEIGHTS, _MOMENTS = _fit_weights()


def _window() -> Taps:
    x = np.arange(_WINDOW_RADIUS + 1, dtype=np.float64)
    g = np.exp(-(x**2) / (2 * _WINDOW_SIGMA**2))
    return tuple((g / (g[0] + 2 * g[1:].sum())).astype(np.float32))


_WINDOW = _window()


def pyramid_flow(
    previous: Sequence[Expansion], current: Sequence[Expansion], stride: float
) -> list[Flow]:
    """Return the motion of each pixel between two frames, at each level in pixels of that level."""
    flows: list[Flow] = []
    for first, second in zip(reversed(previous), reversed(current), strict=True):
        size = first.shape[1:]
        if flows:
            flow = pyramid.resized(flows[-1], size)
            flow *= np.float32(stride)
        else:
            flow = np.zeros((2, *size), np.float32)
        for _ in range(NUM_ITERATIONS):
            refine(first, second, flow)
        flows.append(np.empty_like(flow))
        for component, out in zip(flow, flows[-1], strict=True):
            cv2.medianBlur(component, 5, dst=out)
    return flows[::-1]


def refine(first: Expansion, second: Expansion, flow: Flow) -> None:
    """Update `flow` in place to the displacement that best explains both expansions."""
    _refine(first, second, flow, _TRUST, _WINDOW)


def expand(levels: Sequence[Float[np.ndarray, "h w"]]) -> list[Expansion]:
    """Return the coefficients of the best-fitting polynomial around each pixel, at each level."""
    borders = (_RADIUS,) * 4
    padded = (cv2.copyMakeBorder(level, *borders, cv2.BORDER_REPLICATE) for level in levels)
    return [_expand(level, _WEIGHTS, _MOMENTS) for level in padded]


# The kernels below process one row at a time, and each loop over x writes to a single buffer,
# so that LLVM can vectorize it. Weights are tuples, so that LLVM unrolls the loops over them.


@njit(cache=True, error_model="numpy")
def _expand(
    padded: Float[np.ndarray, "padded_h padded_w"], weights: tuple[Taps, ...], moments: Taps
) -> Expansion:
    g, xg, xxg = weights
    radius = len(g) - 1
    height, width = padded.shape[0] - 2 * radius, padded.shape[1] - 2 * radius
    out = np.empty((5, height, width), np.float32)
    columns = np.empty((3, width + 2 * radius), np.float32)
    parts = np.empty((3, width), np.float32)
    ones, xx, yy = parts[0], parts[1], parts[2]
    for y in range(height):
        rows = padded[y : y + 2 * radius + 1]
        _even_columns(rows, g, columns[0])
        _odd_columns(rows, xg, columns[1])
        _even_columns(rows, xxg, columns[2])
        _odd_row(columns[0], xg, moments[0], out[1, y])
        _even_row(columns[1], g, moments[0], out[0, y])
        _odd_row(columns[1], xg, moments[3], out[4, y])
        _even_row(columns[0], g, moments[1], ones)
        _even_row(columns[0], xxg, moments[2], xx)
        _even_row(columns[2], g, moments[2], yy)
        by_yy, by_xx = out[2, y], out[3, y]
        for x in range(width):
            by_yy[x] = ones[x] + yy[x]
        for x in range(width):
            by_xx[x] = ones[x] + xx[x]
    return out


@njit(cache=True, error_model="numpy")
def _even_columns(rows: Float[np.ndarray, "rows w"], weights: Taps, out: Row) -> None:
    """Write the sums over each column, with even weights around the middle row."""
    middle = len(weights) - 1
    for x in range(len(out)):
        total = rows[middle, x] * weights[0]
        for k in range(1, len(weights)):
            total += (rows[middle - k, x] + rows[middle + k, x]) * weights[k]
        out[x] = total


@njit(cache=True, error_model="numpy")
def _odd_columns(rows: Float[np.ndarray, "rows w"], weights: Taps, out: Row) -> None:
    """Write the sums over each column, with odd weights, positive below the middle row."""
    middle = len(weights) - 1
    for x in range(len(out)):
        total = np.float32(0)
        for k in range(1, len(weights)):
            total += (rows[middle + k, x] - rows[middle - k, x]) * weights[k]
        out[x] = total


@njit(cache=True, error_model="numpy")
def _even_row(
    row: Float[np.ndarray, " padded"], weights: Taps, scale: np.float32, out: Row
) -> None:
    """Write the sums around each position of a padded row, with even weights, times `scale`."""
    radius = len(weights) - 1
    for x in range(len(out)):
        total = row[x + radius] * weights[0]
        for k in range(1, len(weights)):
            total += (row[x + radius - k] + row[x + radius + k]) * weights[k]
        out[x] = total * scale


@njit(cache=True, error_model="numpy")
def _odd_row(row: Float[np.ndarray, " padded"], weights: Taps, scale: np.float32, out: Row) -> None:
    """Write the sums around each position, with odd weights, positive to the right, scaled."""
    radius = len(weights) - 1
    for x in range(len(out)):
        total = np.float32(0)
        for k in range(1, len(weights)):
            total += (row[x + radius + k] - row[x + radius - k]) * weights[k]
        out[x] = total * scale


@njit(cache=True, error_model="numpy")
def _refine(
    first: Expansion,
    second: Expansion,
    flow: Flow,
    border: Float[np.ndarray, " 5"],
    window: Taps,
) -> None:
    """Pool the equations of every pixel over the window and solve them; update `flow` in place."""
    _, height, width = first.shape
    radius = len(window) - 1
    taps = 2 * radius + 1
    # Equations of the rows in the window. Each row is there twice, `taps` places apart, so that
    # the rows of any window are contiguous.
    ring = np.empty((2 * taps, 5, width + 2 * radius), np.float32)
    flat = ring.reshape(2 * taps, ring.shape[1] * ring.shape[2])
    columns = np.empty((5, width + 2 * radius), np.float32)
    pooled = np.empty((5, width), np.float32)
    target = np.empty((5, width), np.float32)
    places = np.empty(width, np.int32)
    fractions = np.empty((2, width), np.float32)
    trust_x, trust_y = _trust(width, border), _trust(height, border)
    for ahead in range(-radius, height + radius):
        place = (ahead + radius) % taps
        if ahead == -radius or 0 <= ahead < height:
            y = max(ahead, 0)
            _interpolate(first, second, flow, y, places, fractions, target)
            _equations(first, target, flow, y, trust_x, trust_y[y], ring[place])
        else:  # the border is replicated
            flat[place] = flat[(place - 1) % taps]
        flat[place + taps] = flat[place]
        y = ahead - radius
        if y >= 0:
            _even_columns(flat[y % taps : y % taps + taps], window, columns.reshape(columns.size))
            for i in range(5):
                _even_row(columns[i], window, np.float32(1), pooled[i])
            _solve(pooled, flow[0, y], flow[1, y])


@njit(cache=True, error_model="numpy")
def _equations(
    first: Expansion,
    target: Float[np.ndarray, "5 w"],
    flow: Flow,
    y: int,
    trust_x: Row,
    trust_y: np.float32,
    out: Float[np.ndarray, "5 padded"],
) -> None:
    """Write A^T A (three entries) and A^T b (two) of row `y`, weighted by the border weights.

    The displacement d solves A d = b. A is the mean of both curvatures; b is half the difference
    of the slopes plus A times the current displacement. `target` is the second expansion at this
    displacement, and is overwritten.
    """
    width = len(trust_x)
    half, quarter = np.float32(0.5), np.float32(0.25)
    slope_y, slope_x = first[0, y], first[1, y]
    curve_yy, curve_xx, curve_xy = first[2, y], first[3, y], first[4, y]
    dx, dy = flow[0, y], flow[1, y]
    by, bx, yy, xx, xy = target[0], target[1], target[2], target[3], target[4]
    for x in range(width):
        yy[x] = (curve_yy[x] + yy[x]) * half
    for x in range(width):
        xx[x] = (curve_xx[x] + xx[x]) * half
    for x in range(width):
        xy[x] = (curve_xy[x] + xy[x]) * quarter
    for x in range(width):
        by[x] = (slope_y[x] - by[x]) * half + yy[x] * dy[x] + xy[x] * dx[x]
    for x in range(width):
        bx[x] = (slope_x[x] - bx[x]) * half + xy[x] * dy[x] + xx[x] * dx[x]
    for i in range(5):
        part = target[i]
        for x in range(width):
            part[x] *= trust_x[x] * trust_y
    _products(yy, yy, xy, xy, out[0])
    _products(yy, xy, xx, xy, out[1])
    _products(xx, xx, xy, xy, out[2])
    _products(yy, by, xy, bx, out[3])
    _products(xy, by, xx, bx, out[4])


@njit(cache=True, error_model="numpy")
def _products(a: Row, b: Row, c: Row, d: Row, padded: Row) -> None:
    """Write a b + c d to the middle of `padded`, and replicate it at the borders."""
    radius = (len(padded) - len(a)) // 2
    out = padded[radius : radius + len(a)]
    for x in range(len(a)):
        out[x] = a[x] * b[x] + c[x] * d[x]
    padded[:radius] = out[0]
    padded[radius + len(a) :] = out[len(a) - 1]


@njit(cache=True, error_model="numpy")
def _interpolate(
    first: Expansion,
    second: Expansion,
    flow: Flow,
    y: int,
    places: Int[np.ndarray, " w"],
    fractions: Float[np.ndarray, "2 w"],
    out: Float[np.ndarray, "5 w"],
) -> None:
    """Write the second expansion at the flow targets of row `y`, by bilinear interpolation.

    Outside the frame, the polynomial has the curvature of the first expansion and no slope.
    `places` and `fractions` are buffers that are overwritten.
    """
    _, height, width = first.shape
    planes = second.reshape(5, height * width)
    one = np.float32(1)
    # apart from the loads below, so that LLVM can vectorize it
    for x in range(width):
        left, top = np.floor(np.float32(x) + flow[0, y, x]), np.floor(np.float32(y) + flow[1, y, x])
        inside = (left >= 0) & (left < width - 1) & (top >= 0) & (top < height - 1)
        places[x] = np.int32(top) * np.int32(width) + np.int32(left) if inside else np.int32(-1)
    for i in range(2):
        part, component = fractions[i], flow[i, y]
        for x in range(width):
            target = np.float32(y if i else x) + component[x]
            part[x] = target - np.floor(target)
    for x in range(width):
        if places[x] >= 0:
            a, b = fractions[0, x], fractions[1, x]
            w00, w01 = (one - a) * (one - b), a * (one - b)
            w10, w11 = (one - a) * b, a * b
            # unsigned, or numba would check each index for a negative value
            i00 = np.uint64(places[x])
            i01, i10, i11 = i00 + np.uint64(1), i00 + np.uint64(width), i00 + np.uint64(width + 1)
            for c in range(5):
                plane = planes[c]
                out[c, x] = (
                    w00 * plane[i00] + w01 * plane[i01] + w10 * plane[i10] + w11 * plane[i11]
                )
        else:
            out[0, x] = out[1, x] = np.float32(0)
            for c in range(2, 5):
                out[c, x] = first[c, y, x]


@njit(cache=True)
def _trust(size: int, border: Float[np.ndarray, " 5"]) -> Float[np.ndarray, " size"]:
    trust = np.ones(size, np.float32)
    for i in range(len(border)):
        trust[i] *= border[i]
        trust[size - 1 - i] *= border[i]
    return trust


@njit(cache=True, error_model="numpy")
def _solve(equations: Float[np.ndarray, "5 w"], dx: Row, dy: Row) -> None:
    """Write the displacements that solve the equations of a row."""
    yy, xy, xx, by, bx = equations[0], equations[1], equations[2], equations[3], equations[4]
    # float64, since differences of nearly equal products cancel in float32
    for x in range(len(dx)):
        determinant = np.float64(yy[x]) * np.float64(xx[x]) - np.float64(xy[x]) ** 2
        numerator = np.float64(yy[x]) * np.float64(bx[x]) - np.float64(xy[x]) * np.float64(by[x])
        dx[x] = numerator / (determinant + _REGULARIZER)
    for x in range(len(dx)):
        determinant = np.float64(yy[x]) * np.float64(xx[x]) - np.float64(xy[x]) ** 2
        numerator = np.float64(xx[x]) * np.float64(by[x]) - np.float64(xy[x]) * np.float64(bx[x])
        dy[x] = numerator / (determinant + _REGULARIZER)
