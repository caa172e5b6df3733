"""The IDT prior: descriptors of every video to one Fisher vector p(psi) each (Sec. 3.3)."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

import fisher
from vcjax import progress
from vcjax.idt import storage


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
        temporary = path.with_suffix(".tmp.npz")
        np.savez(
            temporary,
            video_ids=np.array(self.video_ids),
            vectors=self.vectors,
            has_vector=self.has_vector,
        )
        os.replace(temporary, path)


def load(path: Path) -> FisherVectors:
    """Reads what `FisherVectors.save` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return FisherVectors(
            tuple(arrays["video_ids"].tolist()), arrays["vectors"], arrays["has_vector"]
        )


def fit(
    video_ids: Sequence[str], directory: Path, settings: ConfigDict, *, seed: int
) -> fisher.Model:
    """PCA, mixture and sketch of trajectories drawn at random from videos drawn at random.

    Which rows are drawn depends on the seed and each video's id alone. `directory` holds the
    videos' trajectories.
    """
    drawn = np.random.default_rng(seed).permutation(len(video_ids))[: settings.num_videos]
    samples = []
    for row in progress.bar(sorted(drawn), desc="fisher: sample", unit="video"):
        features = storage.read(storage.path_of(directory, video_ids[row])).features
        samples.append(fisher.sample_rows(features, settings.rows_per_video, video_ids[row], seed))
    return fisher.Model.fit(
        np.concatenate(samples),
        energy=settings.energy,
        num_components=settings.num_components,
        sketch_dim=settings.sketch_dim,
        seed=seed,
    )


def encode(
    model: fisher.Model, video_ids: Sequence[str], directory: Path, *, reading: str
) -> FisherVectors:
    """p(psi) of every video of `video_ids`."""

    def descriptors() -> Iterator[tuple[str, Float[np.ndarray, "n d"]]]:
        for video_id in progress.bar(video_ids, desc="fisher: encode", unit="video"):
            yield video_id, storage.read(storage.path_of(directory, video_id)).features

    return FisherVectors(*model.encode_collection(descriptors(), reading=reading))
