"""The IDT prior: descriptors of every video to one Fisher vector p(psi) each (Sec. 3.3)."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

import fisher
from fisher.rows import Columns, Rows
from fisher.vectors import FisherVectors
from vcjax.idt import storage
from vcjax.idt.trajectories import COLUMNS
from vcjax.runtime import progress
from vcjax.settings import defaults


def _columns(first: str, last: str) -> Columns:
    """From the first to the last of the trajectories' parts, among the features."""
    names = [name for name in COLUMNS if name != "header"]
    ends = np.cumsum([COLUMNS[name] for name in names]).tolist()
    begin = ends[names.index(first)] - COLUMNS[first]
    return Columns(begin, ends[names.index(last)])


# What may have a PCA and a mixture of its own; MBH is both components, as in Wang & Schmid 2013.
DESCRIPTORS = {
    "all": _columns("trajectory", "mbhy"),
    "trajectory": _columns("trajectory", "trajectory"),
    "hog": _columns("hog", "hog"),
    "hof": _columns("hof", "hof"),
    "mbh": _columns("mbhx", "mbhy"),
}
assert tuple(DESCRIPTORS) == defaults.DESCRIPTORS


def columns(names: Sequence[str], *, square_root: bool) -> dict[str, Columns]:
    """The columns of the descriptors `names`. Raises ValueError for an unknown one."""
    if unknown := [name for name in names if name not in DESCRIPTORS]:
        raise ValueError(f"no descriptor {unknown[0]!r}; use some of {sorted(DESCRIPTORS)}")
    if not names:
        raise ValueError(f"fisher.descriptors is empty; use some of {sorted(DESCRIPTORS)}")
    return {name: DESCRIPTORS[name]._replace(square_root=square_root) for name in names}


def fit(
    video_ids: Sequence[str], directory: Path, settings: ConfigDict, *, seed: int
) -> fisher.Model:
    """PCA, mixture and sketch of trajectories drawn at random from videos drawn at random.

    Which rows are drawn depends on the seed and each video's id alone. `directory` holds the
    videos' trajectories.
    """
    drawn = fisher.sample(
        progress.bar(
            fisher.sample_items(video_ids, settings.num_videos, seed),
            desc="fisher: sample",
            unit="video",
        ),
        lambda video_id: storage.read(storage.path_of(directory, video_id)).features,
        rows_per_item=settings.descriptors_per_video,
        seed=seed,
    )
    return fisher.Model.fit(
        drawn,
        explained_variance=settings.explained_variance,
        num_components=settings.num_components,
        sketch_dim=settings.sketch_dim,
        seed=seed,
        columns=columns(settings.descriptors, square_root=settings.square_root),
        source={"settings": settings.to_dict(), "num_videos": len(video_ids)},
    )


def known(directory: Path, trajectories: Path) -> FisherVectors:
    """The vectors in the folder `directory` that are younger than their videos' trajectories."""
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
    known: FisherVectors | None = None,
) -> FisherVectors:
    """p(psi) of every video of `video_ids`; those that are `known` stay as they are."""
    stored = frozenset(known.video_ids if known else ())
    new = [video_id for video_id in video_ids if video_id not in stored]

    def descriptors() -> Iterator[tuple[str, Rows]]:
        for video_id in progress.bar(new, desc="fisher: encode", unit="video"):
            yield video_id, partial(_features, storage.path_of(directory, video_id))

    encoded = FisherVectors(*model.encode_collection(descriptors(), variant=variant))
    if known is None or not stored:
        return encoded
    return FisherVectors(
        known.video_ids + encoded.video_ids,
        np.concatenate([known.vectors, encoded.vectors]),
        np.concatenate([known.has_vector, encoded.has_vector]),
    ).of(video_ids)


def _features(path: Path) -> Iterator[Float[np.ndarray, "_ d"]]:
    return (rows.features for rows in storage.read_blocks(path))


def split_by_descriptor(
    model: fisher.Model, vectors: Float[np.ndarray, "n d"]
) -> dict[str, Float[np.ndarray, "n _"]]:
    """Each descriptor's own vectors, of unit norm, and all that are not `all` side by side."""
    if len(model.parts) == 1:
        return dict.fromkeys(model.parts, vectors)
    unit = vectors * len(model.parts) ** 0.5
    found = {name: unit[:, place] for name, place in model.places.items()}
    kinds = [name for name in found if name != "all"]
    if len(kinds) > 1:
        together = np.concatenate([found[name] for name in kinds], axis=1)
        found["side by side"] = together / len(kinds) ** 0.5
    return found
