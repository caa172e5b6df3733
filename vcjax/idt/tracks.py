"""Point tracking at one scale, with descriptors along each track (Wang & Schmid 2013, Sec. 3.1)."""

from math import prod
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numba import njit

from vcjax.idt import descriptors
from vcjax.idt.trajectories import COLUMNS, IdtSettings, Trajectories

LENGTH = 15  # steps of a finished track
NUM_PERIODS = 3  # temporal cells of a descriptor
_PERIOD = LENGTH // NUM_PERIODS  # steps


class Tracks(NamedTuple):
    """Tracks of one scale, oldest first; positions in pixels of the scale.

    The descriptors are most of the data. They stay in their slot of a buffer that all tracks of
    the scale share, and `sample` uses the slots of ended tracks again.
    """

    age: Int[np.ndarray, " n"]  # steps so far
    points: Float[np.ndarray, "n 16 2"]  # (x, y), valid up to index `age`
    steps: Float[np.ndarray, "n 15 2"]  # without camera motion, valid below index `age`
    slot: Int[np.ndarray, " n"]  # of each track in `sums`
    sums: Float[np.ndarray, "slots 3 4 33"]  # descriptors of the frames so far: period, cell, bin

    def where(self, chosen: Bool[np.ndarray, " n"]) -> "Tracks":
        """Return the tracks where the mask `chosen` is True, in the same order."""
        return Tracks._make([*(array[chosen] for array in self[:4]), self.sums])


def empty() -> Tracks:
    """Return zero tracks."""
    sums = np.empty((0, NUM_PERIODS, *descriptors.SHAPE), np.float32)
    return _new(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), sums)


def _new(
    points: Float[np.ndarray, "n 2"],
    slot: Int[np.ndarray, " n"],
    sums: Float[np.ndarray, "slots 3 4 33"],
) -> Tracks:
    n = len(points)
    all_points = np.zeros((n, LENGTH + 1, 2), np.float32)
    all_points[:, 0] = points
    return Tracks(
        np.zeros(n, np.int32), all_points, np.zeros((n, LENGTH, 2), np.float32), slot, sums
    )


def describe(
    tracks: Tracks,
    gray: UInt8[np.ndarray, "h w"],
    stabilized_flow: Float[np.ndarray, "2 h w"],
    buffer: Float[np.ndarray, " size"],
    settings: IdtSettings,
) -> None:
    """Add the descriptors of a frame around the tracks to their sums.

    Args:
        tracks: Live tracks.
        gray: The frame, before the tracks leave it.
        stabilized_flow: Motion (x, y) to the next frame, without camera motion.
        buffer: The result of `descriptors.scratch`, which is overwritten.
        settings: Constants of the method.
    """
    rows = tracks.slot * NUM_PERIODS + tracks.age // _PERIOD
    sums = tracks.sums.reshape(len(tracks.sums) * NUM_PERIODS, *descriptors.SHAPE)
    sums[rows[tracks.age % _PERIOD == 0]] = 0
    still_flow, bin_floor = np.float32(settings.still_flow), np.float32(settings.bin_floor)
    descriptors.add_patches(
        gray, stabilized_flow, _places(tracks), still_flow, bin_floor, buffer, rows, sums
    )


def _places(tracks: Tracks) -> Float[np.ndarray, "n 2"]:
    return tracks.points[np.arange(len(tracks.age)), tracks.age]


def advance(
    tracks: Tracks,
    flow: Float[np.ndarray, "2 h w"],
    stabilized_flow: Float[np.ndarray, "2 h w"],
) -> tuple[Tracks, Tracks]:
    """Advance the tracks by one frame; return the live and the finished tracks.

    Tracks that leave the frame are dropped. The arrays of `tracks` are modified.

    Args:
        tracks: Live tracks.
        flow: Motion (x, y) to the next frame, in pixels of the scale.
        stabilized_flow: The same without camera motion.
    """
    inside = _advance(tracks.age, tracks.points, tracks.steps, flow, stabilized_flow)
    finished = tracks.age == LENGTH
    return tracks.where(inside & ~finished), tracks.where(inside & finished)


@njit(cache=True, error_model="numpy")
def _advance(
    age: Int[np.ndarray, " n"],
    points: Float[np.ndarray, "n 16 2"],
    steps: Float[np.ndarray, "n 15 2"],
    flow: Float[np.ndarray, "2 h w"],
    stabilized_flow: Float[np.ndarray, "2 h w"],
) -> Bool[np.ndarray, " n"]:
    _, height, width = flow.shape
    inside = np.empty(len(age), np.bool_)
    for track in range(len(age)):
        now = age[track]
        x, y = points[track, now, 0], points[track, now, 1]
        column = min(max(int(np.rint(x)), 0), width - 1)
        row = min(max(int(np.rint(y)), 0), height - 1)
        for i in range(2):
            steps[track, now, i] = stabilized_flow[i, row, column]
        x += flow[0, row, column]
        y += flow[1, row, column]
        points[track, now + 1, 0] = x
        points[track, now + 1, 1] = y
        age[track] = now + 1
        inside[track] = 0 < x < width and 0 < y < height
    return inside


def sample(tracks: Tracks, gray: UInt8[np.ndarray, "h w"], settings: IdtSettings) -> Tracks:
    """Return the tracks and new ones, at grid points with texture and without a track nearby."""
    quality = cv2.cornerMinEigenVal(gray, 3, ksize=3)
    threshold = np.float32(settings.quality * float(quality.max()))
    places = _places(tracks)
    points = _free_points(quality, threshold, places, settings.grid)
    sums = tracks.sums
    if len(sums) < len(places) + len(points):
        sums = np.empty((2 * (len(places) + len(points)), *sums.shape[1:]), np.float32)
        sums[: len(tracks.sums)] = tracks.sums
    free = np.ones(len(sums), np.bool_)
    free[tracks.slot] = False
    new = _new(points, np.flatnonzero(free)[: len(points)], sums)
    pairs = zip(tracks[:4], new[:4], strict=True)
    return Tracks._make([*(np.concatenate(pair) for pair in pairs), sums])


@njit(cache=True, error_model="numpy")
def _free_points(
    quality: Float[np.ndarray, "h w"],
    threshold: np.float32,
    places: Float[np.ndarray, "n 2"],
    grid: int,
) -> Float[np.ndarray, "new 2"]:
    height, width = quality.shape
    taken = np.zeros((height // grid, width // grid), np.bool_)
    for k in range(len(places)):
        column, row = int(places[k, 0] // grid), int(places[k, 1] // grid)
        if row < taken.shape[0] and column < taken.shape[1]:
            taken[row, column] = True
    out = np.empty((taken.size, 2), np.float32)
    count = 0
    for i in range(taken.shape[0]):
        for j in range(taken.shape[1]):
            x, y = grid * j + grid // 2, grid * i + grid // 2
            if not taken[i, j] and quality[y, x] > threshold:
                out[count, 0] = x
                out[count, 1] = y
                count += 1
    return out[:count]


def finish(
    tracks: Tracks, *, frame: int, scale: float, height: int, width: int, settings: IdtSettings
) -> Trajectories:
    """Return the trajectories of those finished tracks that are valid.

    The last header column is the middle frame, not yet a fraction of the video.

    Args:
        tracks: Finished tracks, in pixels of their scale.
        frame: Frame on which they end, from 0.
        scale: Pixels of the video per pixel of the scale.
        height: Height of the video in pixels.
        width: Width of the video in pixels.
        settings: Thresholds of a valid track.
    """
    # columns are contiguous, so that NumPy sums over time in loops over the tracks
    points = np.asfortranarray(tracks.points) * np.float32(scale)
    steps = np.asfortranarray(tracks.steps) * np.float32(scale)
    valid = is_valid(points, steps, settings)
    sums = tracks.sums[tracks.slot[valid]]
    points, steps = np.asfortranarray(points[valid]), np.asfortranarray(steps[valid])
    mean, std = points.mean(axis=1), points.std(axis=1)
    fraction = np.clip(mean / np.array([width, height], np.float32), 0, 0.999)
    length = _lengths(np.diff(points, axis=1)).sum(axis=1)
    header = np.zeros((len(points), COLUMNS["header"]), np.float32)
    header[:, 0] = frame
    header[:, 1:3], header[:, 3:5] = mean, std
    header[:, 5], header[:, 6] = length, scale
    header[:, 7:9] = fraction
    header[:, 9] = frame - LENGTH / 2
    relative = steps / _lengths(steps).sum(axis=1)[:, None, None]
    means = sums / np.float32(_PERIOD)
    parts = [relative, *np.split(means, descriptors.STARTS[1:-1], axis=3)]
    return Trajectories(header, *(p.reshape(len(p), prod(p.shape[1:])) for p in parts))


def is_valid(
    points: Float[np.ndarray, "n 16 2"],
    steps: Float[np.ndarray, "n 15 2"],
    settings: IdtSettings,
) -> Bool[np.ndarray, " n"]:
    """Return a mask of the valid tracks, from positions and steps in pixels of the video.

    A valid track moves, but neither erratically, nor by a jump, nor with the camera alone.
    """
    std = points.std(axis=1)
    moves = (std >= settings.min_deviation).any(axis=1)
    wanders = (std > settings.max_deviation).any(axis=1)
    lengths = _lengths(np.diff(points, axis=1))
    longest = lengths.max(axis=1, initial=0)
    jumps = longest > settings.max_step
    jumps &= longest > settings.max_step_share * lengths.sum(axis=1)
    with_camera = _lengths(steps).max(axis=1, initial=0) <= settings.min_warped_step
    return moves & ~wanders & ~jumps & ~with_camera


def _lengths(vectors: Float[np.ndarray, "n t 2"]) -> Float[np.ndarray, "n t"]:
    return np.sqrt((vectors**2).sum(axis=-1))
