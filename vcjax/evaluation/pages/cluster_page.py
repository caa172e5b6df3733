"""The page of clusters: an HTML file and PNG images, which a browser opens from disk."""

import html
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from string import Template
from typing import Any

from vcjax.data.manifest import Manifest
from vcjax.evaluation import report_table
from vcjax.evaluation.pages import contact_sheets
from vcjax.evaluation.pages.clusters import Cluster
from vcjax.runtime import atomic, progress

NUM_VIDEOS = 6  # in the image of each cluster
_NUM_SHEETS = 60  # clusters shown of each model, the largest
_NUM_ROWS = 12  # clusters in the overview of each model
_NUM_OVERVIEW_VIDEOS = 4  # of each cluster in the overview
_NUM_THREADS = 2  # that decode videos

Pictures = Mapping[int, contact_sheets.Tiles]


def write(
    directory: Path,
    report: Mapping[str, Any],
    training: Manifest,
    described: Mapping[str, Sequence[Cluster]],
) -> None:
    """Write `index.html`, and `clusters.png` and `cluster_NNN.png` in a folder for each model.

    `described` maps names in `tables.TITLES` to clusters by decreasing size; the clusters refer to
    rows of `training`.
    """
    shown = {name: _shown(described[name]) for name in report_table.TITLES if name in described}
    rows = {row for drawn in shown.values() for cluster in drawn for row in cluster.nearest}
    pictures = _read(training, sorted(rows))
    sections, links = [], []
    for name, drawn in shown.items():
        folder = directory / name
        folder.mkdir(parents=True, exist_ok=True)
        _draw(folder, drawn, pictures)
        sections.append(_section(name, drawn, described[name], training))
        links.append(f'<a href="#{name}">{html.escape(report_table.TITLES[name])}</a>')
    text = _PAGE.substitute(
        dataset=html.escape(report["dataset"]),
        table=_table(report),
        notes="\n".join(f"<li>{html.escape(note)}</li>" for note in report_table.notes(report)),
        links=" · ".join(links),
        sections="\n".join(sections),
    )
    atomic.write_text(directory / "index.html", text)


def _shown(described: Sequence[Cluster]) -> list[Cluster]:
    """Return the largest clusters, and the group of videos without a cluster."""
    real = [cluster for cluster in described if cluster.number is not None]
    return real[:_NUM_SHEETS] + [cluster for cluster in described if cluster.number is None]


def _read(training: Manifest, rows: Sequence[int]) -> dict[int, contact_sheets.Tiles]:
    """Return the frames to draw of the videos in `rows`."""
    paths = [training.paths[row] for row in rows]
    counts = [training.num_frames[row] for row in rows]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        reading = pool.map(contact_sheets.read, paths, counts)
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


def _section(
    name: str, shown: Sequence[Cluster], described: Sequence[Cluster], training: Manifest
) -> str:
    cards = "\n".join(_card(name, cluster, training) for cluster in shown)
    real = [cluster for cluster in described if cluster.number is not None]
    summary = f"{len(real)} clusters of {sum(cluster.size for cluster in real)} training videos"
    if left_out := len(described) - len(shown):
        summary += f"; the {left_out} smallest are not shown"
    return _SECTION.substitute(
        folder=name,
        title=html.escape(report_table.TITLES[name]),
        summary=html.escape(summary),
        cards=cards,
    )


def _card(folder: str, cluster: Cluster, training: Manifest) -> str:
    ids = [training.video_ids[row] for row in cluster.nearest]
    height = len(ids) * (contact_sheets.HEIGHT + 2) - 2
    return _CARD.substitute(
        title=_title(cluster),
        common="<br>".join(html.escape(line) for line in _common(cluster)),
        source=f"{folder}/{_file(cluster)}",
        height=height,
        width=contact_sheets.NUM_FRAMES * (contact_sheets.WIDTH + 2) - 2,
        ids=html.escape(", ".join(ids)),
    )


def _table(report: Mapping[str, Any]) -> str:
    names = report_table.labels(report)
    titles = "".join(f'<th colspan="3">{html.escape(name)}</th>' for name in names)
    below = "".join(f"<th>{column}</th>" for _ in names for column in report_table.COLUMNS)
    lines = [f"<tr><th></th>{titles}</tr>", f"<tr><th></th>{below}</tr>"]
    for row in report_table.rows(report):
        cells = "".join(f"<td>{cell}</td>" for name in names for cell in row.cells[name])
        lines.append(f"<tr><th>{html.escape(row.title)}</th>{cells}</tr>")
    return "\n".join(lines)


def _title(cluster: Cluster) -> str:
    noun = "video" if cluster.size == 1 else "videos"
    if cluster.number is None:
        return f"No trajectories: {cluster.size} {noun}"
    return f"Cluster {cluster.number}: {cluster.size} {noun}"


def _common(cluster: Cluster) -> Iterable[str]:
    return [
        report_table.printable(f"{label}: {common.value} {100 * common.share:.0f}%")
        for label, common in cluster.common.items()
    ]


def _file(cluster: Cluster) -> str:
    """Return a file name made from the cluster's number, since labels are not safe in a path."""
    return "no_trajectories.png" if cluster.number is None else f"cluster_{cluster.number:03d}.png"


_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Clusters of $dataset</title>
<style>
body { font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #222;
       background: #fafafa; max-width: 1280px; margin: 0 auto; padding: 24px; }
h1 { font-size: 26px; margin: 0 0 12px; }
h2 { font-size: 20px; margin: 48px 0 4px; border-top: 1px solid #ccc; padding-top: 24px; }
h3 { font-size: 15px; margin: 0; }
p { margin: 0 0 12px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; background: #fff; border: 1px solid #ddd; margin: 12px 0; }
th, td { padding: 4px 14px; text-align: right; font-variant-numeric: tabular-nums; }
th:first-child { text-align: left; }
th[colspan] { text-align: center; border-bottom: 1px solid #ddd; }
tr:nth-child(2) th { color: #666; font-weight: normal; border-bottom: 1px solid #ddd; }
td:nth-child(3n+2), tr:nth-child(2) th:nth-child(3n+2) { border-left: 1px solid #ddd; }
tr:last-child > * { color: #666; font-weight: normal; border-top: 1px solid #ddd; }
ul { color: #555; font-size: 13px; padding-left: 18px; margin: 0; }
img { max-width: 100%; height: auto; display: block; }
.overview { border: 1px solid #ddd; background: #fff; margin: 8px 0 20px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 500px), 1fr));
         gap: 16px; align-items: start; }
.card { background: #fff; border: 1px solid #ddd; padding: 12px; }
.card p { font-size: 13px; color: #444; margin: 2px 0 8px; overflow-wrap: anywhere; }
.card p.ids { color: #777; font-size: 12px; margin: 6px 0 0; }
</style>
</head>
<body>
<h1>Evaluation of $dataset</h1>
<div class="scroll"><table>
$table
</table></div>
<ul>
$notes
</ul>
<h2>Clusters</h2>
<p>K-means clusters of the training videos, the largest first. No labels were used for clustering.
Each row of an image shows frames of one video from beginning to end; the videos are the nearest to
the cluster's mean. The text gives the most common value of each label in the cluster and the
percentage of its videos that have this value.</p>
<p>$links</p>
<p><a href="explorer.html">Explorer</a>: nearest neighbors of any video, maps of the embeddings,
confusion matrices and learning curves.</p>
$sections
</body>
</html>
""")

_SECTION = Template("""<section id="$folder">
<h2>$title</h2>
<p>$summary. The overview shows two frames of four videos for each of the largest clusters; below,
each cluster is shown in detail.</p>
<img class="overview" src="$folder/clusters.png" alt="Overview of the largest clusters">
<div class="cards">
$cards
</div>
</section>""")

_CARD = Template("""<div class="card">
<h3>$title</h3>
<p>$common</p>
<img loading="lazy" src="$source" width="$width" height="$height" alt="$title">
<p class="ids">$ids</p>
</div>""")
