"""The stage `explore`: a page of videos by looks and by motion, without training."""

import functools
import logging
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vcjax import evaluation, settings
from vcjax.clustering import kmeans
from vcjax.data import clusters as clusters_table
from vcjax.data.manifest import Manifest
from vcjax.evaluation import embeddings, probes, spaces
from vcjax.evaluation.pages import cluster_sheets, clusters, contact_sheets, explorer
from vcjax.evaluation.spaces import Space
from vcjax.idt import filmstrips, fisher_vectors
from vcjax.pipeline import workdir as workdirs
from vcjax.pipeline.evaluate import clusters_of, dataset_name
from vcjax.pipeline.manifest import group_column
from vcjax.runtime import atomic, filesystem, worker_pool
from vcjax.runtime.stage_cache import Stage

log = logging.getLogger(__name__)

# Space -> descriptors whose Fisher vectors are concatenated. HOG describes the gradients of the
# picture along a track, HOF and MBH the motion.
SPACES = {"looks": ("hog",), "motion": ("hof", "mbh"), "idt": ("hog", "hof", "mbh")}
VECTORS = "vectors.npz"
_MIN_VIDEOS = 3  # with a vector, of a space


def explore_stage(name: str, config: ConfigDict, workdir: Path, videos: workdirs.Videos) -> Stage:
    """Return the stage that clusters and maps all videos in `index.html`.

    It also writes `clusters.csv`, `vectors.npz` and `report.json`.

    Raises:
        SettingsError: If a descriptor is missing, or vectors are sketched, which mixes descriptors.
    """
    missing = sorted(set(SPACES["idt"]) - set(config.fisher.descriptors))
    if missing or config.fisher.sketch_dim:
        raise settings.SettingsError(
            f"explore compares descriptors: set --config.fisher.descriptors={SPACES['idt']} "
            "and --config.fisher.sketch_dim=0"
        )
    sources = [embeddings.parse(text) for text in config.explore.embeddings]
    names = [source.name for source in sources]
    if twice := [n for n in names if names.count(n) > 1]:
        raise settings.SettingsError(f"embeddings: the name {twice[0]!r} is given twice")

    def check(running: Collection[str]) -> None:
        manifest = videos(running)
        group_column(config, manifest)
        for source in sources:
            embeddings.read(source, manifest.video_ids)

    def run(directory: Path) -> None:
        manifest = workdirs.manifest(workdir)
        explored = _spaces(config, workdir, manifest, sources)
        _save_vectors(directory / VECTORS, manifest, explored)
        tables = [
            clusters_of(name, manifest, space.vectors, space.labels, space.has_vector)
            for name, space in explored.items()
        ]
        clusters_table.write(directory / clusters_table.FILE, tables)
        report = spaces.report(
            {name: np.array(values) for name, values in manifest.own_labels.items()},
            explored,
            group=group_column(config, manifest),
            num_shared=config.explore.num_shared,
            probing=workdirs.probing(config),
            dataset=dataset_name(config),
            seed=config.seed,
        )
        evaluation.write(report, directory / "report.json")
        shown = explorer.sample(len(manifest), config.seed).tolist()
        _draw_tracks(directory / explorer.TRACKS, manifest.take(shown), config)
        _write_pages(directory, manifest, explored, seed=config.seed)
        print(evaluation.table(report))
        print(f"clusters: {directory / clusters_table.FILE}   page: {directory / 'index.html'}")

    depends: dict[str, Any] = {k: config[k].to_dict() for k in ("explore", "clusters")}
    depends |= {"evaluation": config.evaluation.to_dict(), "seed": config.seed}
    depends["files"] = [_version(source.path) for source in sources]
    inputs = tuple(config.stages[: config.stages.index(name)])
    return Stage(name, depends, inputs, run, keeps=True, check=check)


def _version(path: Path) -> list[Any]:
    try:
        return list(filesystem.file_version(str(path)))
    except OSError:  # `check` reports it
        return []


def num_clusters(configured: int, num_videos: int) -> int:
    """Return K: `configured`, or for 0 the square root of the number of videos, at least 2.

    Raises:
        SettingsError: If there are not more videos than clusters.
    """
    count = configured or max(2, round(math.sqrt(num_videos)))
    if count >= num_videos:
        raise settings.SettingsError(
            f"{count} clusters need more than {num_videos} videos with a vector; use a smaller "
            "--num_clusters (--config.explore.num_clusters)"
        )
    return count


def _spaces(
    config: ConfigDict, workdir: Path, manifest: Manifest, sources: Sequence[embeddings.Source]
) -> dict[str, Space]:
    """Return the spaces of the Fisher vectors and of the other embeddings, with their clusters."""
    model = workdirs.collection(config, workdir).model(workdirs.variant(config))
    encoded = workdirs.fisher_vectors(config, workdir, manifest)
    parts = fisher_vectors.split_by_descriptor(model, encoded.vectors)
    everywhere = np.ones(len(manifest), bool)
    points = {
        name: (_side_by_side([parts[kind] for kind in kinds]), encoded.has_vector)
        for name, kinds in SPACES.items()
    }
    for source in sources:
        rows = embeddings.read(source, manifest.video_ids)
        points[source.name] = probes.unit(rows), everywhere
    explored = {}
    for name, (vectors, has_vector) in points.items():
        if has_vector.sum() < _MIN_VIDEOS:
            log.warning(
                "explore: %d videos have trajectories, at least %d are needed; %s is left out",
                has_vector.sum(),
                _MIN_VIDEOS,
                name,
            )
        else:
            vectors = explorer.in_span(vectors)  # fewer coordinates, with the same distances
            labels = _cluster(vectors, has_vector, config)
            explored[name] = Space(vectors, has_vector, labels)
    if not explored:
        raise settings.SettingsError(
            f"fewer than {_MIN_VIDEOS} of {len(manifest)} videos have trajectories, so there is "
            "nothing to compare; add videos in which something moves, or --embeddings"
        )
    return explored


def _side_by_side(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the concatenation of unit vectors, scaled to unit norm."""
    return np.concatenate(parts, axis=1) / len(parts) ** 0.5


def _cluster(vectors: np.ndarray, has_vector: np.ndarray, config: ConfigDict) -> np.ndarray:
    """Return cluster labels [runs, n] of K-means on vectors of unit norm."""
    runs = kmeans.fit_runs(
        vectors,
        seeds=[config.clusters.seed + run for run in range(config.clusters.num_runs)],
        num_clusters=num_clusters(config.explore.num_clusters, int(has_vector.sum())),
        num_iterations=config.clusters.num_iterations,
        included=has_vector,
    )
    return np.asarray(runs.labels)


def _save_vectors(path: Path, manifest: Manifest, explored: dict[str, Space]) -> None:
    """Write the vectors of each space by its name."""
    arrays = {"video_id": np.array(manifest.video_ids, str)}
    arrays |= {name: space.vectors for name, space in explored.items()}
    with atomic.atomic_write(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def _draw_tracks(folder: Path, manifest: Manifest, config: ConfigDict) -> None:
    """Draw the tracks of the videos that the page shows, and remove filmstrips of other videos."""
    folder.mkdir(exist_ok=True)
    jobs = [
        filmstrips.Job(video_id, path, num_frames, filmstrips.path_of(folder, video_id))
        for video_id, path, num_frames in zip(
            manifest.video_ids, manifest.paths, manifest.num_frames, strict=True
        )
    ]
    for stale in set(folder.iterdir()) - {job.target for job in jobs}:
        stale.unlink()
    worker_pool.run(
        jobs,
        filmstrips.write,
        desc="explore: tracks",
        num_workers=workdirs.num_workers(config),
        on_error="skip",
    )


def _write_pages(
    directory: Path, manifest: Manifest, explored: dict[str, Space], *, seed: int
) -> None:
    columns = {name: np.array(values) for name, values in manifest.own_labels.items()}
    described = {
        name: clusters.describe(
            space.labels[0],
            kmeans.distances(space.vectors, space.labels[0]),
            columns,
            has_point=space.has_vector,
            num_nearest=cluster_sheets.NUM_VIDEOS,
        )
        for name, space in explored.items()
    }
    read = functools.partial(_tiles, directory / explorer.TRACKS, manifest)
    cluster_sheets.write(directory, manifest, described, noun="videos", read=read)
    shown = explorer.sample(len(manifest), seed)
    sources = {
        name: explorer.Source(
            space.vectors[shown],
            {},
            np.where(space.has_vector, space.labels[0], clusters_table.NONE)[shown],
        )
        for name, space in explored.items()
    }
    explorer.save(directory, manifest, shown, sources)
    explorer.write([directory], directory / "index.html")


def _tiles(tracks: Path, manifest: Manifest, row: int) -> contact_sheets.Tiles:
    """Return frames with tracks, or frames of the whole video if it has no filmstrip."""
    path = filmstrips.path_of(tracks, manifest.video_ids[row])
    if not path.exists():
        return contact_sheets.read(manifest.paths[row], manifest.num_frames[row])
    chosen = np.linspace(0, filmstrips.NUM_FRAMES - 1, contact_sheets.NUM_FRAMES).round()
    return np.stack([contact_sheets.tile(f) for f in filmstrips.read(path)[chosen.astype(int)]])
