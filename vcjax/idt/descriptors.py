"""Integral histograms of gradients and motion, and the patch descriptors computed from them.

HOG, HOF and MBH of Wang & Schmid 2013, Sec. 3.1. One integral image holds all 33 bins side by side.
"""

import numpy as np
from jaxtyping import Float, UInt8
from numba import njit

NUM_BINS = 33  # 8 of HOG, 8 + 1 of HOF, 8 each of MBHx and MBHy
STARTS = (0, 8, 17, 25, 33)  # first bin of each of the four histograms, and the end
STILL = 16  # HOF's last bin, for pixels without motion
NUM_CELLS = 2  # along x and along y
CELL = 16  # pixels
SHAPE = (NUM_CELLS**2, NUM_BINS)  # of the descriptors of a patch

_ZERO, _ONE = np.float32(0), np.float32(1)
_TINY = np.float32(2**-52)  # added to the denominator, for vectors of length 0
_PER_DEGREE = np.float32(1 / 45)
_P1, _P3, _P5, _P7 = (
    np.float32(np.rad2deg(p))
    for p in (0.9997878412794807, -0.3258083974640975, 0.1555786518463281, -0.04432655554792128)
)

Row = Float[np.ndarray, " w"]
Integral = Float[np.ndarray, "h_plus_1 w_plus_1 33"]


def integral(
    gray: UInt8[np.ndarray, "h w"],
    flow: Float[np.ndarray, "2 h w"],
    still_flow: float,
    scratch: Float[np.ndarray, " size"] | None = None,
) -> Integral:
    """Return the sums of every bin over all pixels above and to the left.

    A gradient or motion vector splits its magnitude linearly between the two bins closest to its
    direction. Motion of at most `still_flow` pixels adds 1 to HOF's last bin instead. The result
    is a view of `scratch` if given, since allocating such an array costs as much as filling it.
    """
    height, width = gray.shape
    shape = (height + 1, width + 1, NUM_BINS)
    out = (
        np.empty(shape, np.float32) if scratch is None else scratch[: np.prod(shape)].reshape(shape)
    )
    _fill(out, gray.astype(np.float32), flow, np.float32(still_flow))
    return out


def scratch(height: int, width: int) -> Float[np.ndarray, " size"]:
    """Return a buffer for the integral images of a frame of this size, used one at a time."""
    return np.empty((height + 1) * (width + 1) * NUM_BINS, np.float32)


@njit(cache=True, error_model="numpy")
def _fill(
    out: Integral,
    gray: Float[np.ndarray, "h w"],
    flow: Float[np.ndarray, "2 h w"],
    still_flow: np.float32,
) -> None:
    height, width = gray.shape
    out[0] = 0
    row = np.empty(NUM_BINS, np.float32)
    vectors = np.empty((2, 4, width), np.float32)  # x and y of the four kinds of vectors
    lengths = np.empty((4, width), np.float32)
    positions = np.empty((4, width), np.float32)  # directions, in bins
    for y in range(height):
        vectors[0, 1] = flow[0, y]
        vectors[1, 1] = flow[1, y]
        _gradient(gray, y, vectors[0, 0], vectors[1, 0])
        _gradient(flow[0], y, vectors[0, 2], vectors[1, 2])
        _gradient(flow[1], y, vectors[0, 3], vectors[1, 3])
        for kind in range(4):
            _measure(vectors[0, kind], vectors[1, kind], lengths[kind], positions[kind])
        row[:] = 0
        out[y + 1, 0] = 0
        for x in range(width):
            for kind in range(4):
                length, position = lengths[kind, x], positions[kind, x]
                if kind == 1 and length <= still_flow:
                    row[STILL] += np.float32(1)
                else:
                    _vote(row, STARTS[kind], length, position)
            above, here = out[y, x + 1], out[y + 1, x + 1]
            for b in range(NUM_BINS):
                here[b] = above[b] + row[b]


@njit(cache=True, error_model="numpy")
def _gradient(
    image: Float[np.ndarray, "h w"], y: int, along: Float[np.ndarray, " w"], down: Row
) -> None:
    """Write the differences of both neighbors along x and y in row `y`; 0 at mirrored borders."""
    height, width = image.shape
    row = image[y]
    along[0] = along[width - 1] = 0
    for x in range(1, width - 1):
        along[x] = row[x + 1] - row[x - 1]
    if y == 0 or y == height - 1:
        down[:] = 0
        return
    above, below = image[y - 1], image[y + 1]
    for x in range(width):
        down[x] = below[x] - above[x]


@njit(cache=True, inline="always")
def degrees(x: np.float32, y: np.float32) -> np.float32:
    """Return the direction of (x, y) in degrees, in [0, 360].

    The arc tangent is approximated by the same polynomial as in the published descriptors.
    """
    ax, ay = abs(x), abs(y)
    c = min(ax, ay) / (max(ax, ay) + _TINY)
    c2 = c * c
    angle = (((_P7 * c2 + _P5) * c2 + _P3) * c2 + _P1) * c
    angle = np.float32(90) - angle if ay > ax else angle
    angle = np.float32(180) - angle if x < 0 else angle
    return np.float32(360) - angle if y < 0 else angle


@njit(cache=True, error_model="numpy")
def _measure(x: Row, y: Row, length: Row, position: Row) -> None:
    """Write the length of each vector, and its direction in eighths of a turn."""
    for i in range(len(x)):
        length[i] = np.sqrt(x[i] * x[i] + y[i] * y[i])
    for i in range(len(x)):
        position[i] = degrees(x[i], y[i]) * _PER_DEGREE


@njit(cache=True, inline="always")
def _vote(row: Float[np.ndarray, " bins"], start: int, length: float, position: float) -> None:
    first = int(position)
    second_share = (position - np.float32(first)) * length
    row[start + (first & 7)] += length - second_share
    row[start + ((first + 1) & 7)] += second_share


@njit(cache=True, error_model="numpy")
def add_patch(
    integral: Integral,
    x: float,
    y: float,
    bin_floor: np.float32,
    bins: Float[np.ndarray, "4 33"],
    out: Float[np.ndarray, "4 33"],
) -> None:
    """Add the normalized histograms of the patch around (x, y) to `out`, by x cell and y cell.

    The bins of a cell are those of HOG, HOF, MBHx, MBHy. Each of the four is the square root of
    bins that sum to 1 over the cells, and thus has unit L2 norm.

    Args:
        integral: Integral histograms of the frame.
        x: Center of the patch in pixels; a patch across the border is shifted into the frame.
        y: Likewise.
        bin_floor: Value added to each bin before normalization.
        bins: Buffer that is overwritten.
        out: Running sums of one track's descriptors.
    """
    height, width = integral.shape[0] - 1, integral.shape[1] - 1
    side = NUM_CELLS * CELL
    left = min(max(int(np.rint(x)) - CELL, 0), width - side)
    top = min(max(int(np.rint(y)) - CELL, 0), height - side)
    for cell in range(NUM_CELLS * NUM_CELLS):
        x0, y0 = left + cell // NUM_CELLS * CELL, top + cell % NUM_CELLS * CELL
        here, right = integral[y0, x0], integral[y0, x0 + CELL]
        below, across = integral[y0 + CELL, x0], integral[y0 + CELL, x0 + CELL]
        sums = bins[cell]
        for b in range(NUM_BINS):
            sums[b] = max((across[b] - below[b]) - (right[b] - here[b]), _ZERO) + bin_floor
    for kind in range(4):
        start, stop = STARTS[kind], STARTS[kind + 1]
        total = _ZERO
        for cell in range(NUM_CELLS * NUM_CELLS):
            for b in range(start, stop):
                total += bins[cell, b]
        share = _ONE / total
        for cell in range(NUM_CELLS * NUM_CELLS):
            chosen, added = bins[cell, start:stop], out[cell, start:stop]
            for b in range(stop - start):
                added[b] += np.sqrt(chosen[b] * share)
