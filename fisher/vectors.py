"""Fisher vectors of a collection of videos and their file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from fisher import files, rows


@dataclass(frozen=True)
class FisherVectors:
    """p(psi) of videos, identified by `video_ids`.

    The row of a video without trajectories is 0, and its `has_vector` is False.
    """

    video_ids: tuple[str, ...]
    vectors: Float[np.ndarray, "n d"]
    has_vector: Bool[np.ndarray, " n"]

    def __post_init__(self) -> None:
        rows.check_names("video_ids", self.video_ids)
        rows.check_numbers("vectors", self.vectors)
        rows.check_numbers("has_vector", self.has_vector)
        num_videos = len(self.video_ids)
        if self.vectors.ndim != 2 or self.vectors.shape[0] != num_videos:
            raise ValueError(f"vectors must be [{num_videos}, d], not {self.vectors.shape}")
        if self.has_vector.shape != (num_videos,) or self.has_vector.dtype != bool:
            raise ValueError(f"has_vector must be booleans [{num_videos}]")

    def of(self, video_ids: Sequence[str]) -> "FisherVectors":
        """Return the vectors of `video_ids`, in this order.

        Raises:
          ValueError: if videos are missing; the message names the first three.
        """
        rows.check_names("video_ids", video_ids)
        row_of = {video_id: i for i, video_id in enumerate(self.video_ids)}
        if missing := sorted(set(video_ids) - row_of.keys()):
            raise ValueError(
                f"no Fisher vector for {len(missing)} of {len(video_ids)} videos, "
                f"first {', '.join(missing[:3])}; run the stage fisher again"
            )
        order = np.array([row_of[video_id] for video_id in video_ids], int)
        return FisherVectors(tuple(video_ids), self.vectors[order], self.has_vector[order])

    def save(self, path: Path) -> None:
        """Write an npz file atomically."""
        files.save_npz(
            path,
            video_ids=np.array(self.video_ids, str),
            vectors=self.vectors,
            has_vector=self.has_vector,
        )

    @classmethod
    def load(cls, path: Path) -> "FisherVectors":
        """Read a file written by `save`.

        Raises:
          ValueError: if the file is not a readable file of Fisher vectors.
        """
        path = files.path_of(path)
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                video_ids = tuple(arrays["video_ids"].tolist())
                return cls(video_ids, arrays["vectors"], arrays["has_vector"])
        except files.UNREADABLE as error:
            raise ValueError(f"{path}: not a readable file of Fisher vectors: {error}") from error
