"""Matching of keypoints between two frames, by the nearest descriptor within a window."""

import numpy as np
from jaxtyping import Float, Int
from numba import njit

WINDOW = 25.0  # pixels; a match is closer than this along x and along y


@njit(cache=True, error_model="numpy", fastmath={"reassoc"})
def nearest(
    points: Float[np.ndarray, "n 2"],
    descriptors: Float[np.ndarray, "n d"],
    other_points: Float[np.ndarray, "m 2"],
    other_descriptors: Float[np.ndarray, "m d"],
) -> Int[np.ndarray, " n"]:
    """Return the row of the other point with the nearest descriptor; -1 if the window is empty."""
    out = np.full(len(points), -1)
    for i in range(len(points)):
        best = np.float32(np.inf)
        mine = descriptors[i]
        for j in range(len(other_points)):
            dx, dy = points[i, 0] - other_points[j, 0], points[i, 1] - other_points[j, 1]
            if abs(dx) < WINDOW and abs(dy) < WINDOW:
                theirs = other_descriptors[j]
                distance = np.float32(0)
                for k in range(len(mine)):
                    difference = mine[k] - theirs[k]
                    distance += difference * difference
                if distance < best:
                    best, out[i] = distance, j
    return out
