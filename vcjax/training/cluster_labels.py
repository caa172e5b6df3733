"""The clusters of local aggregation: labels from IDT, from the bank, or from both concatenated."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from fisher.vectors import FisherVectors
from vcjax.clustering import kmeans
from vcjax.data import clusters as clusters_table
from vcjax.data.clusters import ClusterTable
from vcjax.objectives import inverted_file
from vcjax.runtime import sharding
from vcjax.training.step import Scalars

log = logging.getLogger(__name__)


class Clusters(NamedTuple):
    """Clusters of the training videos."""

    labels: Int[Array, "runs rows"]
    cells: inverted_file.InvertedFile | None  # of the bank, for an approximate B_i; None: exact
    scalars: Scalars  # to log


class Clustering:
    """K-means of the vectors that a stage of local aggregation clusters.

    Args:
      stage: section of the config with the source of the clusters and the inverted file's settings.
      settings: section of the config with the settings of K-means.
      fisher: Fisher vectors of the training videos; None for clusters from the bank.
      num_videos: number of rows of the bank that are videos.
      num_clusters: number of clusters of the labels.
      num_cells: number of cells of the inverted file.
      num_background: size of B_i, for the recall of the inverted file.
      devices: devices over which the bank is split.
    """

    def __init__(
        self,
        stage: ConfigDict,
        settings: ConfigDict,
        fisher: FisherVectors | None,
        *,
        num_videos: int,
        num_clusters: int,
        num_cells: int,
        num_background: int,
        devices: jax.sharding.Mesh,
    ) -> None:
        if stage.source not in ("idt", "bank", "joint"):
            raise ValueError(
                f"source of the clusters is {stage.source!r}; use one of bank, idt, joint"
            )
        self._source, self._num_candidates = stage.source, stage.num_candidates
        self._num_videos, self._num_clusters = num_videos, num_clusters
        self._num_cells, self._num_background = num_cells, num_background
        self._devices = devices
        self._vectors: Any = fisher.vectors if fisher else np.zeros((num_videos, 0), np.float32)
        if stage.source == "joint":
            self._vectors = sharding.shard_rows(self._vectors, devices)
            if settings.fisher_weight != 1:
                self._vectors *= settings.fisher_weight
        self._all = np.ones(num_videos, bool)
        self._has_point = fisher.has_vector if fisher and stage.source == "idt" else self._all
        self._seeds = [settings.seed + run for run in range(settings.num_runs)]
        self._options = {"num_iterations": settings.num_iterations, "mesh": devices}

    def cluster(self, bank: Float[Array, "rows d"]) -> Clusters:
        """Cluster the videos. A video without a vector is a cluster of its own."""
        runs = kmeans.fit_runs(
            self._points(bank),
            seeds=self._seeds,
            num_clusters=self._num_clusters,
            included=self._has_point,
            **self._options,
        )
        sizes, inertia = np.asarray(runs.sizes[0]), np.asarray(runs.inertia[0])
        log.debug(
            "K-means, %s: %d clusters, inertia %s",
            self._source,
            self._num_clusters,
            " ".join(f"{value:.4g}" for value in inertia),
        )
        scalars = {
            "clusters": int((sizes > 0).sum()),
            "largest_cluster": int(sizes.max()),
            "median_cluster": float(np.median(sizes)),
            "inertia": float(inertia[-1]),
        }
        if not self._num_candidates:
            return Clusters(runs.labels, None, scalars)
        cells = self._make_cells(runs, bank)
        scalars["neighbor_recall"] = inverted_file.recall(
            bank,
            cells,
            num_rows=self._num_videos,
            num_background=self._num_background,
            num_candidates=self._num_candidates,
            mesh=self._devices,
        )
        return Clusters(runs.labels, cells, scalars)

    def table(
        self,
        name: str,
        video_ids: Sequence[str],
        labels: Int[Array, "runs rows"],
        bank: Float[Array, "rows d"],
    ) -> ClusterTable:
        """Return the clusters of the videos, with distances in the current `bank`.

        All processes of a run must call it.
        """
        whole = np.asarray(sharding.gather(labels))[:, : self._num_videos]
        points = [
            np.asarray(sharding.gather(side) if isinstance(side, jax.Array) else side)
            for side in self._points(bank)
        ]
        distances = np.stack([kmeans.distances(points, run) for run in whole])
        return clusters_table.table(name, video_ids, whole, distances, self._has_point)

    def _points(self, bank: Float[Array, "rows d"]) -> list[Any]:
        """Return the arrays to cluster as if concatenated (Sec. 3.3)."""
        sides = {"idt": [self._vectors], "bank": [bank], "joint": [bank, self._vectors]}
        return sides[self._source]

    def _make_cells(
        self, runs: kmeans.Runs, bank: Float[Array, "rows d"]
    ) -> inverted_file.InvertedFile:
        """Return the inverted file of the bank, from `runs` if these are clusters of the bank."""
        if self._source == "bank":
            return inverted_file.make(runs.centroids[0], runs.labels[0], self._devices)
        clusters = kmeans.fit(
            bank,
            seed=self._seeds[0],
            num_clusters=self._num_cells,
            included=self._all,
            **self._options,
        )
        return inverted_file.make(clusters.centroids, clusters.labels, self._devices)
