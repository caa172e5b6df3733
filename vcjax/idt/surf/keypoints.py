"""Keypoints: maxima over position and scale of the Hessian determinant, from box filters."""

import numpy as np
from jaxtyping import Float, Int
from numba import njit

THRESHOLD = np.float32(200)  # of the determinant
NUM_OCTAVES = 4
NUM_LAYERS = 2  # per octave, searched for maxima; one more on each side
_SIDE, _SIDE_STEP = 9, 6  # pixels, of the smallest filter and between successive filters
_MIXED_WEIGHT = np.float32(0.81)  # box filters overstate the mixed derivative
# Edges of the boxes in the smallest filter: along the derivative, across it, and the mixed filter.
_ALONG, _ACROSS, _MIXED = (0, 3, 6, 9), (2, 7), (1, 4, 5, 8)
_ONE = np.float32(1)

Sums = Int[np.ndarray, "h_plus_1 w_plus_1"]  # of all pixels above and to the left
Phases = Int[np.ndarray, "step h_plus_1 columns"]
Keypoints = Float[np.ndarray, "n 3"]  # x, y, side of the filter
Edges = Int[np.ndarray, " edges"]
Determinants = Float[np.ndarray, "rows columns"]
Row = Float[np.ndarray, " columns"]


def detect(sums: Sums, free: Sums | None = None) -> Keypoints:
    """Return the keypoints of an image from its integral image, strongest first.

    If `free`, the integral image of a mask (0 or 1), is given, a keypoint is kept only if the mask
    is 1 on at least half of its filter.
    """
    height, width = sums.shape[0] - 1, sums.shape[1] - 1
    maxima = [np.zeros((0, 4), np.float32)]
    for octave in range(NUM_OCTAVES):
        step = 2**octave
        phases = _phases(sums, step)
        sides = [(_SIDE + _SIDE_STEP * i) * step for i in range(NUM_LAYERS + 2)]
        sides = [side for side in sides if side <= min(height, width)]
        layers = [_determinants(phases, side, height, width) for side in sides]
        for i in range(1, len(sides) - 1):
            near = np.stack(layers[i - 1 : i + 2])
            maxima.append(_maxima(near, sides[i], sides[i + 1], step, THRESHOLD, free))
    merged = np.concatenate(maxima)
    x, y, side, strength = merged.T
    return merged[np.lexsort((x, -y, -side, -strength)), :3]


def _phases(sums: Sums, step: int) -> Phases:
    """Return every `step`-th column of the sums, for each of the `step` first columns.

    The columns are padded with zeros to a multiple of `step`.
    """
    height, width = sums.shape
    padded = np.pad(sums, ((0, 0), (0, -width % step)))
    return np.ascontiguousarray(padded.reshape(height, -1, step).transpose(2, 0, 1))


def _determinants(phases: Phases, side: int, height: int, width: int) -> Determinants:
    """Return the Hessian determinant at every `step`-th pixel; 0 if the filter leaves the image."""
    step = len(phases)
    out = np.zeros((height // step, width // step), np.float32)
    ratio = np.float32(side) / np.float32(_SIDE)
    along, across, mixed = (
        np.rint(ratio * np.array(edges, np.float32)).astype(np.int64)
        for edges in (_ALONG, _ACROSS, _MIXED)
    )
    margin = side // 2 // step
    inner = out[margin:, margin : margin + 1 + (width - side) // step]
    _fill_determinants(inner, phases, along, across, mixed, 1 + (height - side) // step)
    return out


# As in vcjax.idt.flow, each loop over x writes to a single buffer, so that LLVM can vectorize it.


@njit(cache=True, error_model="numpy")
def _fill_determinants(
    out: Determinants, phases: Phases, along: Edges, across: Edges, mixed: Edges, num_rows: int
) -> None:
    step = phases.shape[0]
    responses = np.empty((3, out.shape[1]), np.float32)
    xx, yy, xy = responses[0], responses[1], responses[2]
    for i in range(num_rows):
        _along_x(phases, i * step, along, across, xx)
        _along_y(phases, i * step, along, across, yy)
        _diagonal(phases, i * step, mixed, xy)
        row = out[i]
        for x in range(len(row)):
            row[x] = xx[x] * yy[x] - _MIXED_WEIGHT * xy[x] * xy[x]


@njit(inline="always")
def _from(phases: Phases, y: int, x: int) -> Int[np.ndarray, " columns"]:
    """Return row `y` of the sums at columns x, x + step, x + 2 step, ..."""
    step = phases.shape[0]
    return phases[x % step, y, x // step :]


@njit(cache=True, error_model="numpy")
def _along_x(phases: Phases, y: int, along: Edges, across: Edges, out: Row) -> None:
    """Write the second derivative along x, from three boxes side by side with weights 1, -2, 1."""
    top, bottom = y + across[0], y + across[1]
    t0, b0 = _from(phases, top, along[0]), _from(phases, bottom, along[0])
    t1, b1 = _from(phases, top, along[1]), _from(phases, bottom, along[1])
    t2, b2 = _from(phases, top, along[2]), _from(phases, bottom, along[2])
    t3, b3 = _from(phases, top, along[3]), _from(phases, bottom, along[3])
    _three_boxes(t0, b0, t1, b1, t2, b2, t3, b3, along, across, out)


@njit(cache=True, error_model="numpy")
def _along_y(phases: Phases, y: int, along: Edges, across: Edges, out: Row) -> None:
    """Write the second derivative along y, from three boxes on top of each other."""
    left, right = across[0], across[1]
    l0, r0 = _from(phases, y + along[0], left), _from(phases, y + along[0], right)
    l1, r1 = _from(phases, y + along[1], left), _from(phases, y + along[1], right)
    l2, r2 = _from(phases, y + along[2], left), _from(phases, y + along[2], right)
    l3, r3 = _from(phases, y + along[3], left), _from(phases, y + along[3], right)
    _three_boxes(l0, r0, l1, r1, l2, r2, l3, r3, along, across, out)


@njit(cache=True, error_model="numpy")
def _three_boxes(
    p0: Row, q0: Row, p1: Row, q1: Row, p2: Row, q2: Row, p3: Row, q3: Row,
    along: Edges, across: Edges, out: Row,
) -> None:  # fmt: skip
    """Write the weighted sum of three boxes, from the integrals at both ends of their edges."""
    area = np.float32((along[1] - along[0]) * (across[1] - across[0]))
    outer, middle = _ONE / area, np.float32(-2) / area
    for x in range(len(out)):
        c1, c2 = q1[x] - p1[x], q2[x] - p2[x]
        first = np.float32(c1 - (q0[x] - p0[x])) * outer
        center = np.float32(c2 - c1) * middle
        last = np.float32((q3[x] - p3[x]) - c2) * outer
        out[x] = np.float32(np.float64(first) + np.float64(center) + np.float64(last))


@njit(cache=True, error_model="numpy")
def _diagonal(phases: Phases, y: int, mixed: Edges, out: Row) -> None:
    """Write the mixed derivative, from four boxes that are positive on the main diagonal."""
    upper, lower = np.empty(len(out), np.float64), np.empty(len(out), np.float64)
    _side_by_side(phases, y + mixed[0], y + mixed[1], mixed, upper)
    _side_by_side(phases, y + mixed[2], y + mixed[3], mixed, lower)
    for x in range(len(out)):
        out[x] = np.float32(upper[x] - lower[x])


@njit(cache=True, error_model="numpy")
def _side_by_side(
    phases: Phases, top: int, bottom: int, mixed: Edges, out: Float[np.ndarray, " columns"]
) -> None:
    """Write the mean of the left minus the mean of the right box, from row `top` to `bottom`."""
    t0, b0 = _from(phases, top, mixed[0]), _from(phases, bottom, mixed[0])
    t1, b1 = _from(phases, top, mixed[1]), _from(phases, bottom, mixed[1])
    t2, b2 = _from(phases, top, mixed[2]), _from(phases, bottom, mixed[2])
    t3, b3 = _from(phases, top, mixed[3]), _from(phases, bottom, mixed[3])
    share = _ONE / np.float32((mixed[1] - mixed[0]) * (bottom - top))
    for x in range(len(out)):
        left = np.float32((b1[x] - t1[x]) - (b0[x] - t0[x])) * share
        right = np.float32((b3[x] - t3[x]) - (b2[x] - t2[x])) * share
        out[x] = np.float64(left) - np.float64(right)


@njit(cache=True, error_model="numpy")
def _maxima(
    near: Float[np.ndarray, "3 rows columns"],
    side: int,
    side_above: int,
    step: int,
    threshold: np.float32,
    free: Sums | None,
) -> Float[np.ndarray, "n 4"]:
    """Return x, y, side and strength of the maxima in the middle layer.

    Position and side are refined by a parabola through the neighbors. A maximum is dropped if the
    maximum of the parabola is more than one sample away.
    """
    _, rows, columns = near.shape
    margin = side_above // 2 // step + 1
    to_edge = step * (side // 2 // step)
    out = np.empty((max(rows * columns // 8, 1), 4), np.float32)
    count = 0
    for i in range(margin, rows - margin):
        for j in range(margin, columns - margin):
            strength = near[1, i, j]
            if strength > threshold and _is_maximum(near, i, j):
                ok, dx, dy, ds = _peak(near[:, i - 1 : i + 2, j - 1 : j + 2])
                if not ok:
                    continue
                left, top = step * j - to_edge, step * i - to_edge
                if free is not None and not _is_half_free(free, left, top, side):
                    continue
                half = np.float32(side - 1) * np.float32(0.5)
                out[count, 0] = np.float32(left) + half + dx * np.float32(step)
                out[count, 1] = np.float32(top) + half + dy * np.float32(step)
                side_step = side_above - side
                out[count, 2] = np.rint(np.float32(side) + ds * np.float32(side_step))
                out[count, 3] = strength
                count += 1
    return out[:count]


@njit(cache=True, error_model="numpy")
def _is_half_free(free: Sums, left: int, top: int, side: int) -> bool:
    above = free[top, left + side] - free[top, left]
    below = free[top + side, left + side] - free[top + side, left]
    share = np.float32(below - above) * (_ONE / np.float32(side * side))
    return bool(share >= np.float32(0.5))


@njit(cache=True, error_model="numpy")
def _is_maximum(near: Float[np.ndarray, "3 rows columns"], i: int, j: int) -> bool:
    value = near[1, i, j]
    for layer in range(3):
        for y in range(i - 1, i + 2):
            for x in range(j - 1, j + 2):
                if near[layer, y, x] >= value and not (layer == 1 and y == i and x == j):
                    return False
    return True


@njit(cache=True, error_model="numpy")
def _peak(cube: Float[np.ndarray, "3 3 3"]) -> tuple[bool, np.float32, np.float32, np.float32]:
    """Return the offset (x, y, side), in samples, of the maximum of a parabola through the cube.

    The axes of `cube` are side, y, x. The solution is by Cramer's rule in float32. The first value
    is True if the offset is at most one sample along each axis and not exactly zero.
    """
    two, four = np.float32(2), np.float32(4)
    low, mid, high = cube[0], cube[1], cube[2]
    bx = -(mid[1, 2] - mid[1, 0]) / two
    by = -(mid[2, 1] - mid[0, 1]) / two
    bs = -(high[1, 1] - low[1, 1]) / two
    xx = mid[1, 0] - two * mid[1, 1] + mid[1, 2]
    yy = mid[0, 1] - two * mid[1, 1] + mid[2, 1]
    ss = low[1, 1] - two * mid[1, 1] + high[1, 1]
    xy = (mid[2, 2] - mid[2, 0] - mid[0, 2] + mid[0, 0]) / four
    xs = (high[1, 2] - high[1, 0] - low[1, 2] + low[1, 0]) / four
    ys = (high[2, 1] - high[0, 1] - low[2, 1] + low[0, 1]) / four
    determinant = xx * (yy * ss - ys * ys) - xy * (xy * ss - xs * ys) + xs * (xy * ys - xs * yy)
    if determinant == 0:
        return False, np.float32(0), np.float32(0), np.float32(0)
    d = _ONE / determinant
    dx = d * (bx * (yy * ss - ys * ys) - xy * (by * ss - ys * bs) + xs * (by * ys - yy * bs))
    dy = d * (xx * (by * ss - ys * bs) - bx * (xy * ss - ys * xs) + xs * (xy * bs - by * xs))
    ds = d * (xx * (yy * bs - by * ys) - xy * (xy * bs - by * xs) + bx * (xy * ys - yy * xs))
    moved = dx != 0 or dy != 0 or ds != 0
    return moved and max(abs(dx), abs(dy), abs(ds)) <= 1, dx, dy, ds
