"""Integral histograms of gradients and motion, and the patch descriptors computed from them.

HOG, HOF and MBH of Wang & Schmid 2013, Sec. 3.1, side by side in 33 bins.
"""

import numpy as np
from jaxtyping import Float, Int, UInt8
from numba import njit

NUM_BINS = 33  # 8 of HOG, 8 + 1 of HOF, 8 each of MBHx and MBHy
STARTS = (0, 8, 17, 25, 33)  # first bin of each of the four histograms, and the end
STILL = 16  # HOF's last bin, for pixels without motion
NUM_CELLS = 2  # along x and along y
CELL = 16  # pixels
SHAPE = (NUM_CELLS**2, NUM_BINS)  # of the descriptors of a patch
_NUM_ROWS = NUM_CELLS * CELL + 1  # of the integral histograms that a patch needs

_ZERO, _ONE = np.float32(0), np.float32(1)
_TINY = np.float32(2**-52)  # added to the denominator, for vectors of length 0
_PER_DEGREE = np.float32(1 / 45)
_P1, _P3, _P5, _P7 = (
    np.float32(np.rad2deg(p))
    for p in (0.9997878412794807, -0.3258083974640975, 0.1555786518463281, -0.04432655554792128)
)

Row = Float[np.ndarray, " w"]
Patch = Float[np.ndarray, "4 33"]  # x cell and y cell, then the bins of HOG, HOF, MBHx, MBHy


def scratch(width: int) -> Float[np.ndarray, " size"]:
    """Return a buffer for the integral histograms of frames of at most this width."""
    return np.empty((_NUM_ROWS + 1) * (width + 1) * NUM_BINS, np.float32)


@njit(cache=True, error_model="numpy")
def add_patches(
    gray: UInt8[np.ndarray, "h w"],
    flow: Float[np.ndarray, "2 h w"],
    points: Float[np.ndarray, "n 2"],
    still_flow: np.float32,
    bin_floor: np.float32,
    buffer: Float[np.ndarray, " size"],
    rows: Int[np.ndarray, " n"],
    out: Float[np.ndarray, "rows 4 33"],
) -> None:
    """Add the normalized histograms of the patch around each point to a row of `out`.

    A gradient or motion vector splits its magnitude linearly between the two bins closest to its
    direction. Motion of at most `still_flow` pixels adds 1 to HOF's last bin instead. Each of the
    four histograms is the square root of bins that sum to 1 over the cells, and thus has unit L2
    norm. Integral histograms are kept for the rows of one patch only, since the cache does not
    hold them for a frame; the patches are processed from top to bottom.

    Args:
        gray: The frame.
        flow: Motion (x, y) to the next frame.
        points: Centers (x, y) in pixels; a patch across the border is shifted into the frame.
        still_flow: Largest motion that counts as none.
        bin_floor: Value added to each bin before normalization.
        buffer: The result of `scratch`, which is overwritten.
        rows: Row of `out` for each point; no row occurs twice.
        out: Running sums of the descriptors.
    """
    height, width = gray.shape
    side = NUM_CELLS * CELL
    corners = np.empty((2, len(points)), np.int64)
    for k in range(len(points)):
        corners[0, k] = min(max(int(np.rint(points[k, 0])) - CELL, 0), width - side)
        corners[1, k] = min(max(int(np.rint(points[k, 1])) - CELL, 0), height - side)
    order = np.argsort(corners[1])
    pitch = (width + 1) * NUM_BINS
    ring = buffer[: (_NUM_ROWS + 1) * pitch].reshape(_NUM_ROWS + 1, width + 1, NUM_BINS)
    votes, integral = ring[_NUM_ROWS], ring[:_NUM_ROWS]  # row y of the integral is at y modulo 33
    integral[0] = 0
    vectors = np.empty((2, 4, width), np.float32)  # x and y of the four kinds of vectors
    lengths = np.empty((4, width), np.float32)
    positions = np.empty((4, width), np.float32)  # directions, in bins
    image = gray.astype(np.float32)
    bins = np.empty((NUM_CELLS**2 + 1, NUM_BINS), np.float32)
    done = 0
    for y in range(height):
        if done == len(order):
            break
        vectors[0, 1] = flow[0, y]
        vectors[1, 1] = flow[1, y]
        _gradient(image, y, vectors[0, 0], vectors[1, 0])
        _gradient(flow[0], y, vectors[0, 2], vectors[1, 2])
        _gradient(flow[1], y, vectors[0, 3], vectors[1, 3])
        for kind in range(4):
            _measure(vectors[0, kind], vectors[1, kind], lengths[kind], positions[kind])
        _vote(lengths, positions, still_flow, votes)
        _accumulate(votes, integral[y % _NUM_ROWS], integral[(y + 1) % _NUM_ROWS])
        while done < len(order) and corners[1, order[done]] + side == y + 1:
            k = order[done]
            _add_patch(integral, corners[0, k], corners[1, k], bin_floor, bins, out[rows[k]])
            done += 1


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


@njit(cache=True, error_model="numpy")
def _vote(
    lengths: Float[np.ndarray, "4 w"],
    positions: Float[np.ndarray, "4 w"],
    still_flow: np.float32,
    out: Float[np.ndarray, "w_plus_1 33"],
) -> None:
    """Write the bins of each pixel of a row, from index 1."""
    out[:] = 0
    for x in range(lengths.shape[1]):
        pixel = out[x + 1]
        for kind in range(4):
            length, position = lengths[kind, x], positions[kind, x]
            if kind == 1 and length <= still_flow:
                pixel[STILL] = _ONE
            else:
                first = int(position)
                second_share = (position - np.float32(first)) * length
                pixel[STARTS[kind] + (first & 7)] = length - second_share
                pixel[STARTS[kind] + ((first + 1) & 7)] = second_share


@njit(cache=True, error_model="numpy")
def _accumulate(
    votes: Float[np.ndarray, "w 33"],
    above: Float[np.ndarray, "w 33"],
    out: Float[np.ndarray, "w 33"],
) -> None:
    """Write the sums of `votes` up to each position, plus the row above; `votes` is overwritten."""
    # lengths from the shape: LLVM would unroll a loop over NUM_BINS instead of vectorizing it
    for x in range(1, len(votes)):
        for b in range(votes.shape[1]):
            votes[x, b] += votes[x - 1, b]
    sums, sums_above, sums_out = votes.ravel(), above.ravel(), out.ravel()
    for i in range(len(sums)):
        sums_out[i] = sums_above[i] + sums[i]


@njit(cache=True, error_model="numpy")
def _add_patch(
    integral: Float[np.ndarray, "33 w_plus_1 33"],
    left: int,
    top: int,
    bin_floor: np.float32,
    bins: Float[np.ndarray, "5 33"],
    out: Patch,
) -> None:
    for cell in range(NUM_CELLS * NUM_CELLS):
        x0, y0 = left + cell // NUM_CELLS * CELL, top + cell % NUM_CELLS * CELL
        upper, lower = integral[y0 % _NUM_ROWS], integral[(y0 + CELL) % _NUM_ROWS]
        here, right, below, across = upper[x0], upper[x0 + CELL], lower[x0], lower[x0 + CELL]
        sums = bins[cell]
        for b in range(len(sums)):
            sums[b] = max((across[b] - below[b]) - (right[b] - here[b]), _ZERO) + bin_floor
    shares = bins[NUM_CELLS**2]
    for b in range(len(shares)):
        shares[b] = (bins[0, b] + bins[1, b]) + (bins[2, b] + bins[3, b])
    for kind in range(4):
        start, stop = STARTS[kind], STARTS[kind + 1]
        total = _ZERO
        for b in range(start, stop):
            total += shares[b]
        shares[start:stop] = _ONE / total
    for cell in range(NUM_CELLS * NUM_CELLS):
        sums, added = bins[cell], out[cell]
        for b in range(len(sums)):
            added[b] += np.sqrt(sums[b] * shares[b])
