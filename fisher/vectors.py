"""Fisher vectors of a collection, in one file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from fisher import files


@dataclass(frozen=True)
class FisherVectors:
    """p(psi) of videos, known by their ids. A video without trajectories has none: its row is 0."""

    video_ids: tuple[str, ...]
    vectors: Float[np.ndarray, "n d"]
    has_vector: Bool[np.ndarray, " n"]

    def of(self, video_ids: Sequence[str]) -> "FisherVectors":
        """Those of `video_ids`, in their order. Raises ValueError naming the missing ones."""
        row = {video_id: i for i, video_id in enumerate(self.video_ids)}
        if missing := sorted(set(video_ids) - row.keys()):
            raise ValueError(
                f"no Fisher vector for {len(missing)} of {len(video_ids)} videos, "
                f"first {missing[:3]}; run the stage fisher again"
            )
        rows = np.array([row[video_id] for video_id in video_ids], int)
        return FisherVectors(tuple(video_ids), self.vectors[rows], self.has_vector[rows])

    def save(self, path: Path) -> None:
        """Writes an npz, atomically."""
        files.save_npz(
            path,
            video_ids=np.array(self.video_ids, str),
            vectors=self.vectors,
            has_vector=self.has_vector,
        )

    @classmethod
    def load(cls, path: Path) -> "FisherVectors":
        """Reads what `save` wrote. Raises ValueError if it is anything else."""
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                video_ids = tuple(arrays["video_ids"].tolist())
                return cls(video_ids, arrays["vectors"], arrays["has_vector"])
        except files.UNREADABLE as error:
            raise ValueError(f"{path}: not a file of Fisher vectors: {error}") from error
