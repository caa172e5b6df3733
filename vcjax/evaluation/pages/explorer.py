"""The explorer: an HTML page of one run, or of two runs side by side, which opens from disk.

It shows the results, nearest neighbors of any video, a map of the embeddings, clusters, confusion
matrices and learning curves, for two representations at a time (the comparison of Fig. 2 and 3).
"""

import base64
import functools
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8
from PIL import Image

from vcjax.clustering import neighbors
from vcjax.data import manifest as manifests
from vcjax.data.manifest import Manifest
from vcjax.evaluation import probes, report_table
from vcjax.evaluation.pages import cluster_sheets, contact_sheets
from vcjax.idt import filmstrips
from vcjax.runtime import atomic, progress, stage_record

_MAX_VIDEOS = 2000  # random sample of a larger collection
_MAX_MAPPED = 1000  # videos for t-SNE; larger collections are mapped by PCA
_NUM_NEIGHBORS = 12
_MAX_BYTES = 14e6  # of all thumbnails in base64
_BYTES_A_FRAME = 3600  # of one thumbnail in base64, estimated
_BYTES_A_FRAME_WITH_TRACKS = 8200  # likewise with tracks
_MAX_FRAMES = 8  # of each video
_MAX_POINTS = 500  # of a learning curve
_NUM_THREADS = 2  # that decode videos
_QUALITY = 60  # of the JPEGs
_SIZE = (96, 72)  # largest width and height of a thumbnail in pixels


TRACKS = "tracks"  # folder of the filmstrips with tracks
_DATA = "explorer.npz"


class Source(NamedTuple):
    """One representation of the videos of the page, with the predictions of a linear probe."""

    embedding: Float[np.ndarray, "n d"]
    # label -> rows of the test videos, and the predictions for them
    predictions: Mapping[str, tuple[Int[np.ndarray, " q"], Shaped[np.ndarray, " q"]]]
    clusters: Int[np.ndarray, " n"]  # of one run of K-means, -1 for videos without a cluster


def sample(num_videos: int, seed: int) -> Int[np.ndarray, " n"]:
    """Return the sorted rows of a random sample of at most 2000 videos."""
    order = np.random.default_rng(seed).permutation(num_videos)
    return np.sort(order[:_MAX_VIDEOS])


def save(
    directory: Path,
    manifest: Manifest,
    rows: Int[np.ndarray, " n"],
    sources: Mapping[str, Source],
) -> None:
    """Write the page's data to `explorer.tsv` and `explorer.npz`.

    Args:
      directory: folder of the stage.
      manifest: all videos.
      rows: sorted rows of the videos of the page, a `sample`.
      sources: representations of the videos of the page; predictions of any videos, by their rows
        in `manifest`.
    """
    place = {row: i for i, row in enumerate(rows.tolist())}
    arrays: dict[str, np.ndarray] = {}
    for name, source in sources.items():
        arrays[f"{name}/embedding"] = in_span(source.embedding).astype(np.float16)
        arrays[f"{name}/clusters"] = source.clusters
        for label, (test, predictions) in source.predictions.items():
            shown = np.isin(test, rows)
            arrays[f"{name}/rows/{label}"] = np.array(
                [place[row] for row in test[shown].tolist()], np.int64
            )
            arrays[f"{name}/told/{label}"] = predictions[shown].astype(str)
    manifests.save(manifest.take(rows.tolist()), directory / "explorer.tsv")
    with atomic.atomic_write(directory / _DATA) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def in_span(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n _"]:
    """Return the vectors in at most n coordinates, with the same lengths, angles and distances."""
    if len(vectors) >= vectors.shape[1]:
        return vectors
    triangle: Any = np.linalg.qr(vectors.T, mode="r")
    return triangle.T


def load(directory: Path) -> tuple[Manifest, dict[str, Source]]:
    """Return the sampled videos and their representations, as written by `save`.

    Raises:
      FileNotFoundError: if the run has not been evaluated.
      stages.StageError: if a file of the stage is corrupt.
    """
    if not (directory / _DATA).exists():
        raise FileNotFoundError(f"no {_DATA} in {directory}; run the stage evaluate first")
    stage_record.check(directory)
    manifest = manifests.load(directory / "explorer.tsv")
    sources = {}
    with np.load(directory / _DATA, allow_pickle=False) as arrays:
        names = {key.split("/")[0] for key in arrays.files}
        for name in sorted(names, key=lambda name: (report_table.place(name), name)):
            start = f"{name}/rows/"
            labels = [key[len(start) :] for key in arrays.files if key.startswith(start)]
            sources[name] = Source(
                arrays[f"{name}/embedding"].astype(np.float32),
                {k: (arrays[start + k], arrays[f"{name}/told/{k}"]) for k in labels},
                arrays[f"{name}/clusters"]
                if f"{name}/clusters" in arrays
                else np.full(len(manifest), -1),  # of an earlier version
            )
    return manifest, sources


def write(runs: Sequence[Path], out: Path) -> None:
    """Write the page of one run, or of two runs to compare.

    The page contains everything except the images of clusters, which it refers to in the runs.

    Args:
      runs: folders of evaluated or explored runs, or of their stage.
      out: the HTML file.
    """
    folders = [_evaluated(run) for run in runs]
    loaded = [load(folder) for folder in folders]
    thumbs, places = _thumbs([manifest for manifest, _ in loaded])
    _add_tracks(thumbs, folders, [manifest for manifest, _ in loaded], places)
    described = [
        _run(folder, manifest, sources, place, out.parent)
        for folder, (manifest, sources), place in zip(folders, loaded, places, strict=True)
    ]
    names = [name for _, sources in loaded for name in sources]
    data = {"runs": described, "thumbs": thumbs, "pair": _pair(names)}
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    # Without "<", no text of the data can close the script element that holds it.
    page = resources.files("vcjax.evaluation.pages").joinpath("explorer.html").read_text("utf-8")
    atomic.write_text(out, page.replace("@DATA@", text.replace("<", "\\u003c")))


def _evaluated(run: Path) -> Path:
    """Return the folder with the page's data in the folder of a run, or `run` if it is one."""
    folders = [run, run / "evaluate", run / "explore"]
    return next((folder for folder in folders if (folder / _DATA).exists()), run / "evaluate")


def _pair(names: Sequence[str]) -> tuple[int, int]:
    """Return the indices of the pair shown first: looks and motion, LA and LA + IDT, the ends."""
    if {"looks", "motion"} <= set(names):
        return names.index("looks"), names.index("motion")
    right = len(names) - 1
    left = names.index("la") if "la" in names[:right] else 0
    for name in ("la_idt", "la_idt_tune"):
        right = names.index(name) if name in names else right
    return left, right


def _run(
    directory: Path,
    manifest: Manifest,
    sources: Mapping[str, Source],
    place: Sequence[int],
    folder: Path,
) -> dict[str, Any]:
    run = directory.absolute().parent
    reports = (directory / "report.json", run / "report.json")
    report = json.loads(next(filter(Path.exists, reports), reports[1]).read_text("utf-8"))
    entries = {**report["models"], **({"idt": report["idt"]} if "idt" in report else {})}
    described = cluster_sheets.load(directory)
    row_of = {video_id: row for row, video_id in enumerate(manifest.video_ids)}
    bar = progress.bar(sources.items(), desc="explorer: maps", unit="map")
    return {
        "name": run.name,
        "dataset": report["dataset"],
        "folder": quote(Path(os.path.relpath(directory, folder)).as_posix()),
        "notes": report_table.notes(report),
        "columns": [name for name, values in manifest.own_labels.items() if any(values)],
        "videos": [
            {
                "id": video_id,
                "thumb": place[row],
                "labels": {name: values[row] for name, values in manifest.own_labels.items()},
            }
            for row, video_id in enumerate(manifest.video_ids)
        ],
        "sources": [
            _source(source, described[name], row_of)
            | {
                "name": name,
                "title": report_table.TITLES.get(name, name),
                "ami": entries[name]["clusters"]["ami"],
            }
            for name, source in bar
        ],
        "curves": curves(run / "metrics.jsonl"),
        "tables": _tables(report),
    }


def _source(
    source: Source, described: Mapping[str, Any], row_of: Mapping[str, int]
) -> dict[str, Any]:
    unit = probes.unit(source.embedding)
    count = min(_NUM_NEIGHBORS + 1, len(unit))
    order = neighbors.nearest(unit, unit, num_neighbors=count)
    near = [[int(j) for j in row if j != i][: count - 1] for i, row in enumerate(order)]
    return {
        "neighbors": near,
        "map": np.round(plane(unit), 3).tolist(),
        "summary": described["summary"],
        "members": source.clusters.tolist(),
        "clusters": [
            {**cluster, "nearest": [row_of[v] for v in cluster["ids"] if v in row_of]}
            for cluster in described["clusters"]
        ],
        "predictions": {
            label: {"rows": rows.tolist(), "values": predictions.tolist()}
            for label, (rows, predictions) in source.predictions.items()
        },
    }


def plane(points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 2"]:
    """Return a map of the points in two dimensions, scaled to [-1, 1].

    By t-SNE, or by PCA for more than 1000 points. All zeros if there are fewer than 4 points or
    they are all equal.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(points) < 4 or not points.std():
        return np.zeros((len(points), 2))
    places = PCA(2, random_state=0).fit_transform(points)
    if len(points) <= _MAX_MAPPED:
        perplexity = min(30.0, (len(points) - 1) / 3)
        # OpenMP threads spin while they wait, which is very slow on shared cores.
        with threadpool_limits(1):
            places = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(points)
    places = places - (places.max(axis=0) + places.min(axis=0)) / 2
    return places / max(np.abs(places).max(), 1e-12)


def curves(path: Path) -> dict[str, dict[str, list[list[float]]]]:
    """Return stage -> metric -> pairs [epoch, value] from the lines of `metrics.jsonl`.

    A curve of more than 500 points is thinned evenly and keeps its last point.
    """
    points: dict[str, dict[str, list[list[float]]]] = {}
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:  # a killed run can leave an incomplete last line
            continue
        for key, value in event.items():
            if key in ("stage", "step", "epoch") or "epoch" not in event:
                continue
            if isinstance(value, int | float) and np.isfinite(value):
                stage = points.setdefault(event["stage"], {})
                stage.setdefault(key, []).append([round(event["epoch"], 3), value])
    return {
        stage: {
            key: values[:: -math.ceil(len(values) / _MAX_POINTS)][::-1]
            for key, values in of.items()
        }
        for stage, of in points.items()
    }


def _tables(report: Mapping[str, Any]) -> list[list[list[str]]]:
    """Return one table per label: a row of column titles, then one row per model."""
    parts = []
    for label in report_table.labels(report):
        titles = report_table.columns(report)
        lines = [
            [label, *titles, "5-shot", "R@1", "R@5", "R@10", "k-NN" if "k-NN" not in titles else ""]
        ]
        for row in report_table.rows(report):
            name = next((n for n, t in report_table.TITLES.items() if t == row.title), row.title)
            lines.append([row.title, *row.cells[label], *_more(report["models"].get(name), label)])
        parts.append(_without_empty_columns(lines))
    return parts


def _without_empty_columns(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return a table without the columns that have no title or no value."""
    kept = [title and set(cells) != {"-"} for title, *cells in zip(*lines, strict=True)]
    return [[cell for cell, keep in zip(line, kept, strict=True) if keep] for line in lines]


def _more(entry: Mapping[str, Any] | None, label: str) -> list[str]:
    if entry is None or label not in entry.get("retrieval", {}):
        return ["-"] * 5
    few = entry.get("few_shot", {}).get(label, {}).get("5")
    accuracy = "-" if few is None else f"{100 * few['mean']:.1f}"
    if few is not None and few["interval"] is not None:
        accuracy += f" ± {100 * few['interval']:.1f}"
    depths = entry["retrieval"][label]
    shown = [f"{100 * depths[k]:.1f}" if k in depths else "-" for k in ("1", "5", "10")]
    return [accuracy, *shown, f"{100 * entry['vote'][label]:.1f}"]


def _add_tracks(
    thumbs: Sequence[dict[str, Any] | None],
    folders: Sequence[Path],
    runs: Sequence[Manifest],
    places: Sequence[Sequence[int]],
) -> None:
    """Add the filmstrips with tracks, `tracks/` in the folder of an explored run, to `thumbs`."""
    affordable = int(_MAX_BYTES / _BYTES_A_FRAME_WITH_TRACKS / max(len(thumbs), 1))
    frames = min(max(affordable, 1), filmstrips.NUM_FRAMES)
    for folder, manifest, place in zip(folders, runs, places, strict=True):
        for video_id, index in zip(manifest.video_ids, place, strict=True):
            path, thumb = filmstrips.path_of(folder / TRACKS, video_id), thumbs[index]
            if thumb and path.exists():
                thumb["tracks"] = _jpeg(filmstrips.read(path)[:frames])


def _jpeg(tiles: UInt8[np.ndarray, "t h w 3"]) -> dict[str, Any]:
    """Return a filmstrip as a data URI, with its number of frames and their width by height."""
    file = io.BytesIO()
    strip = Image.fromarray(np.concatenate(list(tiles), axis=1))
    strip.save(file, "JPEG", quality=_QUALITY, optimize=True)
    text = base64.b64encode(file.getvalue()).decode()
    ratio = round(tiles.shape[2] / tiles.shape[1], 4)
    return {"frames": len(tiles), "ratio": ratio, "uri": f"data:image/jpeg;base64,{text}"}


def _thumbs(runs: Sequence[Manifest]) -> tuple[list[dict[str, Any] | None], list[list[int]]]:
    """Return filmstrips of all videos, and for each run the index of each video's filmstrip.

    A file that occurs in both runs is decoded once.
    """
    counts = {
        path: num_frames
        for manifest in runs
        for path, num_frames in zip(manifest.paths, manifest.num_frames, strict=True)
    }
    affordable = int(_MAX_BYTES / _BYTES_A_FRAME / max(len(counts), 1))
    frames = min(max(affordable, 1), _MAX_FRAMES)

    resize = functools.partial(filmstrips.fit, size=_SIZE)

    def strip(path: str) -> dict[str, Any] | None:
        return _jpeg(contact_sheets.read(path, counts[path], frames, resize))

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        reading = pool.map(strip, counts)
        made = list(progress.bar(reading, total=len(counts), desc="explorer: frames", unit="video"))
    place = {path: i for i, path in enumerate(counts)}
    return made, [[place[path] for path in manifest.paths] for manifest in runs]
