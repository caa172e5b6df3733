"""Images of the clusters of every model, and their descriptions for the page of the run."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vcjax.data.manifest import Manifest
from vcjax.evaluation import report_table
from vcjax.evaluation.pages import contact_sheets
from vcjax.evaluation.pages.clusters import Cluster
from vcjax.runtime import atomic, progress

NUM_VIDEOS = 8  # in the image of each cluster
_NUM_SHEETS = 60  # clusters shown of each model, the largest
_NUM_ROWS = 12  # clusters in the overview of each model
_NUM_OVERVIEW_VIDEOS = 4  # of each cluster in the overview
_NUM_THREADS = 2  # that decode videos
_FILE = "clusters.json"

Pictures = Mapping[int, contact_sheets.Tiles]


def write(
    directory: Path,
    training: Manifest,
    described: Mapping[str, Sequence[Cluster]],
    *,
    noun: str = "training videos",
    read: Callable[[int], contact_sheets.Tiles] | None = None,
) -> None:
    """Write `clusters.json`, and `clusters.png` and `cluster_NNN.png` in a folder for each model.

    Args:
      directory: folder of the stage.
      training: the clustered videos.
      described: clusters of each model by decreasing size, which refer to rows of `training`.
      noun: name of the clustered videos.
      read: function from a row to the frames to draw; default: frames of the whole video.
    """
    read = read or (lambda row: contact_sheets.read(training.paths[row], training.num_frames[row]))
    shown = {name: _shown(clusters) for name, clusters in described.items()}
    rows = {row for drawn in shown.values() for cluster in drawn for row in cluster.nearest}
    pictures = _read(read, sorted(rows))
    for name, drawn in shown.items():
        (directory / name).mkdir(parents=True, exist_ok=True)
        _draw(directory / name, drawn, pictures)
    content = {
        name: {
            "summary": _summary(described[name], len(drawn), noun),
            "clusters": [_entry(name, cluster, training) for cluster in drawn],
        }
        for name, drawn in shown.items()
    }
    atomic.write_text(directory / _FILE, json.dumps(content, allow_nan=False))


def load(directory: Path) -> dict[str, dict[str, Any]]:
    """Return for each model the `summary` and `clusters` that `write` stored in `directory`."""
    return json.loads((directory / _FILE).read_text())


def _shown(described: Sequence[Cluster]) -> list[Cluster]:
    """Return the largest clusters, and the group of videos without a cluster."""
    real = [cluster for cluster in described if cluster.number is not None]
    return real[:_NUM_SHEETS] + [cluster for cluster in described if cluster.number is None]


def _read(
    read: Callable[[int], contact_sheets.Tiles], rows: Sequence[int]
) -> dict[int, contact_sheets.Tiles]:
    """Return the frames to draw of the videos in `rows`."""
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        reading = pool.map(read, rows)
        bar = progress.bar(reading, total=len(rows), desc="clusters: frames", unit="video")
        return dict(zip(rows, bar, strict=True))


def _draw(folder: Path, shown: Sequence[Cluster], pictures: Pictures) -> None:
    for cluster in shown:
        sheet = contact_sheets.contact_sheet([pictures[row] for row in cluster.nearest])
        contact_sheets.save(sheet, folder / _file(cluster))
    rows = [
        ([_title(cluster), *_common(cluster)], [pictures[row] for row in cluster.nearest])
        for cluster in shown
        if cluster.number is not None
    ]
    overview = contact_sheets.overview(rows[:_NUM_ROWS], num_videos=_NUM_OVERVIEW_VIDEOS)
    contact_sheets.save(overview, folder / "clusters.png")


def _summary(described: Sequence[Cluster], num_shown: int, noun: str) -> str:
    sizes = [cluster.size for cluster in described if cluster.number is not None]
    text = f"{len(sizes)} clusters of {sum(sizes)} {noun}"
    left_out = len(described) - num_shown
    return text + (f"; the {left_out} smallest are not shown" if left_out else "")


def _entry(folder: str, cluster: Cluster, training: Manifest) -> dict[str, Any]:
    return {
        "number": cluster.number,
        "size": cluster.size,
        "title": _title(cluster),
        "common": {k: [c.value, round(c.share, 3)] for k, c in cluster.common.items()},
        "text": "; ".join(_common(cluster)),
        "sheet": f"{folder}/{_file(cluster)}",
        "ids": [training.video_ids[row] for row in cluster.nearest],
    }


def _title(cluster: Cluster) -> str:
    noun = "video" if cluster.size == 1 else "videos"
    if cluster.number is None:
        return f"No trajectories: {cluster.size} {noun}"
    return f"Cluster {cluster.number}: {cluster.size} {noun}"


def _common(cluster: Cluster) -> list[str]:
    return [
        report_table.printable(f"{label}: {common.value} {100 * common.share:.0f}%")
        for label, common in cluster.common.items()
    ]


def _file(cluster: Cluster) -> str:
    """Return a file name made from the cluster's number, since labels are not safe in a path."""
    return "no_trajectories.png" if cluster.number is None else f"cluster_{cluster.number:03d}.png"
