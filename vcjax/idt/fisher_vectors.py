"""The IDT prior: the Fisher vector p(psi) of each video's descriptors (Sec. 3.3)."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

import fisher
from fisher.rows import Columns, NoRowsError, Rows
from fisher.vectors import FisherVectors
from vcjax.idt import storage
from vcjax.idt.trajectories import COLUMNS
from vcjax.runtime import progress
from vcjax.settings import defaults


def _columns(first: str, last: str) -> Columns:
    """Return the feature columns from the part `first` to the part `last` of the trajectories."""
    names = [name for name in COLUMNS if name != "header"]
    ends = np.cumsum([COLUMNS[name] for name in names]).tolist()
    begin = ends[names.index(first)] - COLUMNS[first]
    return Columns(begin, ends[names.index(last)])


# Descriptors that may have their own PCA and mixture. MBH joins both components, as in Wang &
# Schmid 2013.
DESCRIPTORS = {
    "all": _columns("trajectory", "mbhy"),
    "trajectory": _columns("trajectory", "trajectory"),
    "hog": _columns("hog", "hog"),
    "hof": _columns("hof", "hof"),
    "mbh": _columns("mbhx", "mbhy"),
}
assert tuple(DESCRIPTORS) == defaults.DESCRIPTORS


def columns(names: Sequence[str], *, square_root: bool) -> dict[str, Columns]:
    """Return the feature columns of each descriptor in `names`.

    Raises:
        ValueError: If a descriptor is unknown or `names` is empty.
    """
    valid = ", ".join(sorted(DESCRIPTORS))
    if unknown := [name for name in names if name not in DESCRIPTORS]:
        raise ValueError(f"no descriptor {unknown[0]!r}; use some of {valid}")
    if not names:
        raise ValueError(f"--config.fisher.descriptors is empty; use some of {valid}")
    return {name: DESCRIPTORS[name]._replace(square_root=square_root) for name in names}


def fit(
    video_ids: Sequence[str],
    features: Callable[[str], Float[np.ndarray, "_ d"]],
    settings: ConfigDict,
    *,
    seed: int,
) -> fisher.Model:
    """Fit PCA, mixture and sketch to random trajectories of random videos (Sec. 4.2).

    The sample of a video depends only on the seed and its id.

    Args:
        video_ids: Ids of the videos to draw from.
        features: Function that returns the trajectories of a video.
        settings: The section `fisher` of a config.
        seed: Seed of all draws.
    """
    try:
        drawn = fisher.sample(
            progress.bar(
                fisher.sample_items(video_ids, settings.num_videos, seed),
                desc="fisher: sample",
                unit="video",
            ),
            features,
            rows_per_item=settings.descriptors_per_video,
            seed=seed,
        )
    except NoRowsError as error:
        raise ValueError(
            f"none of {len(video_ids)} videos has trajectories: nothing moves in them, or they are "
            "shorter than 16 frames; add videos in which something moves"
        ) from error
    return fisher.Model.fit(
        drawn,
        explained_variance=settings.explained_variance,
        num_components=settings.num_components,
        sketch_dim=settings.sketch_dim,
        seed=seed,
        columns=columns(settings.descriptors, square_root=settings.square_root),
        source={"settings": settings.to_dict(), "num_videos": len(video_ids)},
    )


def reusable(directory: Path, trajectories: Path) -> FisherVectors:
    """Return the vectors in `directory` that are not older than their video's trajectories."""
    path = directory / "vectors.npz"
    if not path.exists():
        return FisherVectors((), np.zeros((0, 0), np.float32), np.zeros(0, bool))
    time = path.stat().st_mtime_ns
    stored = FisherVectors.load(path)
    files = {video_id: storage.path_of(trajectories, video_id) for video_id in stored.video_ids}
    return stored.of([v for v, f in files.items() if f.exists() and f.stat().st_mtime_ns <= time])


def encode(
    model: fisher.Model,
    video_ids: Sequence[str],
    directory: Path,
    *,
    variant: str,
    stored: FisherVectors | None = None,
) -> FisherVectors:
    """Return p(psi) of every video of `video_ids`.

    Args:
        model: PCA, mixture and sketch.
        video_ids: Ids of the videos, in the order of the result.
        directory: Folder of trajectory files.
        variant: "paper" (Eq. 5-6) or "released".
        stored: Vectors of the same model, which are reused instead of encoded.
    """
    done = frozenset(stored.video_ids if stored else ())
    new = [video_id for video_id in video_ids if video_id not in done]

    def descriptors() -> Iterator[tuple[str, Rows]]:
        for video_id in progress.bar(new, desc="fisher: encode", unit="video"):
            yield video_id, partial(_features, storage.path_of(directory, video_id))

    encoded = FisherVectors(*model.encode_collection(descriptors(), variant=variant))
    if stored is None or not done:
        return encoded
    return FisherVectors(
        stored.video_ids + encoded.video_ids,
        np.concatenate([stored.vectors, encoded.vectors]),
        np.concatenate([stored.has_vector, encoded.has_vector]),
    ).of(video_ids)


def stored_features(directory: Path) -> Callable[[str], Float[np.ndarray, "_ d"]]:
    """Return a function that reads the trajectories of a video from a folder of files."""
    return lambda video_id: storage.read(storage.path_of(directory, video_id)).features


def _features(path: Path) -> Iterator[Float[np.ndarray, "_ d"]]:
    return (rows.features for rows in storage.read_blocks(path))


def split_by_descriptor(
    model: fisher.Model, vectors: Float[np.ndarray, "n d"]
) -> dict[str, Float[np.ndarray, "n _"]]:
    """Return the unit-norm vectors of each descriptor of `model`, by its name.

    If there are several descriptors, "side by side" is their concatenation (without "all").
    """
    if len(model.parts) == 1:
        return dict.fromkeys(model.parts, vectors)
    unit = vectors * len(model.parts) ** 0.5
    parts = {name: unit[:, place] for name, place in model.places.items()}
    kinds = [name for name in parts if name != "all"]
    if len(kinds) > 1:
        joint = np.concatenate([parts[name] for name in kinds], axis=1)
        parts["side by side"] = joint / len(kinds) ** 0.5
    return parts
