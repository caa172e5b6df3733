"""The clusters of local aggregation: labels from IDT, from the bank, or from both side by side."""

import logging
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from fisher.vectors import FisherVectors
from vcjax import settings
from vcjax.clustering import kmeans
from vcjax.objectives import inverted_file
from vcjax.runtime import sharding
from vcjax.training.step import Scalars

log = logging.getLogger(__name__)


def clustering(
    stage: ConfigDict,
    config: ConfigDict,
    num_videos: int,
    fisher: FisherVectors | None,
    devices: jax.sharding.Mesh,
) -> Callable[[Array], tuple[Array, inverted_file.InvertedFile | None, Scalars]] | None:
    """bank -> labels [runs, rows], cells if B_i is sought in them, what to log of both.

    None for an objective without clusters.
    """
    if stage.objective != "local_aggregation":
        return None
    if stage.source not in ("idt", "bank", "joint"):
        raise settings.SettingsError(
            f"source of the clusters is {stage.source!r}; use one of bank, idt, joint"
        )
    vectors: Any = fisher.vectors if fisher else np.zeros((num_videos, 0), np.float32)
    if stage.source == "joint":
        vectors = sharding.shard_rows(config.clusters.fisher_weight * vectors, devices)
    points: dict[str, Callable[[Array], list[Any]]] = {
        "idt": lambda bank: [vectors],
        "bank": lambda bank: [bank],
        "joint": lambda bank: [bank, vectors],  # side by side (Sec. 3.3)
    }
    known = fisher.has_vector if fisher and stage.source == "idt" else np.ones(num_videos, bool)
    count = settings.num_clusters(config.clusters.num_clusters, int(known.sum()))
    seeds = [config.clusters.seed + run for run in range(config.clusters.num_runs)]

    options = {
        "num_clusters": count,
        "num_iterations": config.clusters.num_iterations,
        "mesh": devices,
    }

    def cluster(bank: Array) -> tuple[Array, inverted_file.InvertedFile | None, Scalars]:
        runs = kmeans.fit_runs(points[stage.source](bank), seeds=seeds, known=known, **options)
        sizes, inertia = np.asarray(runs.sizes[0]), np.asarray(runs.inertia[0])
        steps_down = " ".join(f"{value:.4g}" for value in inertia)
        log.debug("K-means, %s: %d clusters, inertia %s", stage.source, count, steps_down)
        scalars = {
            "clusters": int((sizes > 0).sum()),
            "largest_cluster": int(sizes.max()),
            "median_cluster": float(np.median(sizes)),
            "inertia": float(inertia[-1]),
        }
        if not stage.num_candidates:
            return runs.labels, None, scalars
        if stage.source == "bank":
            cells = inverted_file.make(runs.centroids[0], runs.labels[0], devices)
        else:
            everywhere = np.ones(num_videos, bool)
            of_all = settings.num_clusters(config.clusters.num_clusters, num_videos)
            of_bank = options | {"num_clusters": of_all}
            found = kmeans.fit(bank, seed=seeds[0], known=everywhere, **of_bank)
            cells = inverted_file.make(found.centroids, found.labels, devices)
        scalars["neighbor_recall"] = inverted_file.recall(
            bank,
            cells,
            num_rows=num_videos,
            num_background=settings.num_background(stage.num_background, num_videos),
            num_candidates=stage.num_candidates,
            mesh=devices,
        )
        return runs.labels, cells, scalars

    return cluster
