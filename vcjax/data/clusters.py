"""Table of clusters, `clusters.csv`: one row per video, space and run of K-means.

`vcjax.load_clusters("runs/mine").of("idt")["video_7"]` is the cluster of a video in the first run.
"""

import csv
import io
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from vcjax.runtime import atomic

FILE = "clusters.csv"
_BLOCK = 1 << 16  # rows whose texts are held at once
NONE = -1  # cluster of a video that has no point in the space, such as one without trajectories


class ClusterTable(NamedTuple):
    """Clusters of videos; entry i of every field belongs to row i of the table.

    Attributes:
        video_id: Id of the video.
        space: The clustered vectors: a network of the report, `idt`, or `training/STAGE` for the
            clusters that a stage of local aggregation was trained with in its last epoch.
        run: Run of K-means, from 0.
        cluster: Number of the cluster, `NONE` for a video without a vector.
        distance: Euclidean distance to the mean of the cluster's videos, NaN without a cluster.
    """

    video_id: Shaped[np.ndarray, " n"]
    space: Shaped[np.ndarray, " n"]
    run: Int[np.ndarray, " n"]
    cluster: Int[np.ndarray, " n"]
    distance: Float[np.ndarray, " n"]

    @property
    def spaces(self) -> list[str]:
        """Return the sorted names of the spaces."""
        return sorted(set(self.space.tolist()))

    def of(self, space: str, *, run: int = 0) -> dict[str, int]:
        """Return the cluster of each video by its id, in one run of K-means.

        Raises:
            KeyError: If the table has no such space or run.
        """
        rows = (self.space == space) & (self.run == run)
        if not rows.any():
            raise KeyError(f"no clusters of run {run} in {space!r}; spaces are {self.spaces}")
        pairs = zip(self.video_id[rows].tolist(), self.cluster[rows].tolist(), strict=True)
        return dict(pairs)


def table(
    space: str,
    video_ids: Sequence[str],
    labels: Int[np.ndarray, "runs n"],
    distances: Float[np.ndarray, "runs n"],
    has_point: Bool[np.ndarray, " n"],
) -> ClusterTable:
    """Return the rows of all runs of K-means in one space.

    Args:
        space: Name of the space.
        video_ids: Ids of the n videos.
        labels: Cluster of each video in each run.
        distances: Distance of each video to the center of its cluster.
        has_point: False for videos without a cluster.
    """
    num_runs, count = labels.shape
    return ClusterTable(
        np.tile(np.array(video_ids, str), num_runs),
        np.full(num_runs * count, space),
        np.repeat(np.arange(num_runs), count),
        np.where(has_point, labels, NONE).reshape(-1),
        np.where(has_point, distances, np.nan).reshape(-1),
    )


def write(path: Path, tables: Iterable[ClusterTable], files: Iterable[Path] = ()) -> None:
    """Write the rows of `tables` as CSV, then the rows of `files` of the same format, atomically.

    Raises:
        ValueError: If one of `files` was not written by `write`.
    """
    header = f"{','.join(ClusterTable._fields)}\n"
    with atomic.atomic_write(path) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        text.write(header)
        writer = csv.writer(text, lineterminator="\n")
        for rows in tables:
            for begin in range(0, len(rows.run), _BLOCK):
                *columns, distances = (x[begin : begin + _BLOCK].tolist() for x in rows)
                texts = ("" if np.isnan(d) else f"{d:.6g}" for d in distances)
                writer.writerows(zip(*columns, texts, strict=True))
        text.detach()  # flushes; `file` stays open
        for source in files:
            with source.open("rb") as stored:
                if (line := stored.readline()) != header.encode():
                    raise ValueError(f"{source}: not a table of clusters: its columns are {line!r}")
                shutil.copyfileobj(stored, file)


def read(source: str | Path) -> ClusterTable:
    """Return the table of a file, or of the folder of a run or of a stage.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file was not written by `write`.
    """
    path = Path(source) / FILE if Path(source).is_dir() else Path(source)
    if not path.is_file():
        raise FileNotFoundError(
            f"no clusters at {path}; pass {FILE}, the folder of a run with the stage evaluate, or "
            "a stage of local aggregation"
        )
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file) or [[]]
    try:
        if tuple(header) != ClusterTable._fields:
            raise ValueError(f"its columns are {header}")
        ids, spaces, runs, numbers, distances = zip(*rows, strict=True) if rows else ((),) * 5
        return ClusterTable(
            np.array(ids, str),
            np.array(spaces, str),
            np.array(runs, int),
            np.array(numbers, int),
            np.array([text or "nan" for text in distances], float),
        )
    except ValueError as error:
        raise ValueError(f"{path}: not a table of clusters: {error}") from error
