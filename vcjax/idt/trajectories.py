"""Data type of a video's trajectories, and the constants of the method."""

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vcjax.runtime import checks

# Columns of each part of a trajectory. The descriptors have 2 x 2 spatial by 3 temporal cells, in
# the order time, x, y, bin (Wang & Schmid 2013, Sec. 3.1); HOF has a ninth bin, for no motion.
COLUMNS = {"header": 10, "trajectory": 30, "hog": 96, "hof": 108, "mbhx": 96, "mbhy": 96}


class Trajectories(NamedTuple):
    """Trajectories of one video, in order of the frame on which they end.

    `header`: end frame (from 0), mean x, mean y, std of x, std of y, length (pixels of the video),
    scale, and mean x, mean y, middle frame as fractions of the video in [0, 0.999]. With
    `IdtSettings.max_side` the pixels are pixels of the reduced frames.
    `trajectory`: the steps without camera motion (x, y), divided by the sum of their lengths.
    """

    header: Float[np.ndarray, "n 10"]
    trajectory: Float[np.ndarray, "n 30"]
    hog: Float[np.ndarray, "n 96"]
    hof: Float[np.ndarray, "n 108"]
    mbhx: Float[np.ndarray, "n 96"]
    mbhy: Float[np.ndarray, "n 96"]

    @property
    def features(self) -> Float[np.ndarray, "n 426"]:
        """Return the columns of trajectory, HOG, HOF, MBHx and MBHy, concatenated."""
        return np.concatenate(self[1:], axis=1)

    @property
    def num_rows(self) -> int:
        """Return the number of trajectories."""
        return len(self.header)

    @classmethod
    def empty(cls) -> "Trajectories":
        """Return zero trajectories, as of a video without motion."""
        return cls(*(np.zeros((0, width), np.float32) for width in COLUMNS.values()))


def with_time(header: Float[np.ndarray, "n 10"], num_frames: int) -> Float[np.ndarray, "n 10"]:
    """Return the header with its last column, the middle frame, as a fraction of the video."""
    fraction = np.clip(header[:, 9:] / max(num_frames, 1), 0, 0.999)
    return np.concatenate([header[:, :9], fraction], axis=1)


@dataclass(frozen=True)
class IdtSettings:
    """Constants of improved dense trajectories; Wang & Schmid 2013, Sec. 2 and 3.1."""

    grid: int = 5  # pixels between sampled points, and the cell that holds at most one track
    quality: float = (
        0.001  # of a new point: smaller eigenvalue, as a fraction of the frame's maximum
    )
    max_side: int = 0  # pixels of the larger side, to which larger frames are reduced; 0: as is
    max_scales: int = 8
    stride: float = 2**0.5  # between scales
    # Thresholds of a valid track, in pixels of the video.
    min_deviation: float = 3**0.5  # in x or in y; below it in both the track is static
    max_deviation: float = 50.0  # in x or in y; above it the track is erratic
    max_step: float = 20.0  # a longer step, and more than `max_step_share` of the whole, is a jump
    max_step_share: float = 0.7
    min_warped_step: float = 1.0  # longest step after stabilization; up to it camera motion
    # Estimation of the camera's homography.
    num_corners: int = 1000
    corner_quality: float = 0.001
    corner_distance: float = 3.0  # pixels
    ransac_threshold: float = 1.0  # pixels
    min_matches: int = 50  # with this many or fewer, no camera motion is assumed
    min_inliers: int = 25  # likewise
    warp_margin: int = 5  # pixels from the border within which a frame is not warped
    # Descriptors.
    still_flow: float = 0.4  # pixels per frame; motion up to this counts as HOF's ninth bin
    bin_floor: float = 0.05  # added to each bin before a frame's histogram is normalized

    def __post_init__(self) -> None:
        for constant in fields(self):
            checks.argument(constant.name, getattr(self, constant.name), type(constant.default))
        for name in ("grid", "max_scales", "num_corners"):
            checks.count(name, getattr(self, name))
        for name in ("quality", "corner_quality", "bin_floor"):
            checks.positive(name, getattr(self, name))
        if self.stride <= 1:
            raise ValueError(f"stride is {self.stride}; use a number above 1")
