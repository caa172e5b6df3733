"""Draw the pictures of the documentation from rendered videos.

    python docs/pictures.py --workdir runs/pictures

The videos are explored by `vcjax main --config=explore.py:rendered`; complete stages are not
repeated. Maps and neighbors are drawn by matplotlib from the data of the page, without a browser.
"""

import argparse
import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

DOCS = Path(__file__).parent
_NUM_VIDEOS = 64
_NUM_NEIGHBORS = 5
_MAX_WIDTH = 1100  # pixels
_MAX_BYTES = 300_000


def main() -> None:
    """Explore rendered videos and write the pictures into the folder of this file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", type=Path, default=Path("runs/pictures"))
    workdir = parser.parse_args().workdir
    command = [sys.executable, "-m", "vcjax.main", "--config=explore.py:rendered"]
    command += [f"--config.data.rendered.num_videos={_NUM_VIDEOS}", f"--workdir={workdir}"]
    subprocess.run(command, check=True)
    folder = workdir / "explore"
    page = _page(folder / "index.html")
    draw_maps(page, DOCS / "explore.png")
    for name in ("looks", "motion"):
        with Image.open(folder / name / "clusters.png") as sheet:
            _save(sheet.convert("RGB").crop((0, 0, sheet.width, 6 * 94 + 10)), f"{name}.png")
    _draw_labels(workdir)


def _page(path: Path) -> dict[str, Any]:
    """Return the data of an explorer page."""
    found = re.search(r'id="data">(.*?)</script>', path.read_text("utf-8"), re.S)
    assert found, path
    return dict(json.loads(found[1]))


def draw_maps(page: dict[str, Any], path: Path) -> None:
    """Draw the maps of looks and of motion, with the neighbors of one video below each."""
    (run,) = page["runs"]
    sources = {source["name"]: source for source in run["sources"]}
    values = [video["labels"]["motion"] for video in run["videos"]]
    chosen = _clearest(sources["motion"], values)
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    sides = figure.subfigures(1, 2)
    for side, (name, title) in zip(
        sides,
        (("looks", "Looks (HOG along the tracks)"), ("motion", "Motion (HOF and MBH)")),
        strict=True,
    ):
        grid = side.subplot_mosaic(
            [["map"] * (_NUM_NEIGHBORS + 1), [str(i) for i in range(_NUM_NEIGHBORS + 1)]],
            height_ratios=[4, 1],
        )
        _draw_map(grid["map"], sources[name], values, chosen, title)
        rows = [chosen, *sources[name]["neighbors"][chosen][:_NUM_NEIGHBORS]]
        for place, row in enumerate(rows):
            axes = grid[str(place)]
            axes.imshow(_frame(page["thumbs"][run["videos"][row]["thumb"]]))
            is_same = values[row] == values[chosen]
            label = f"{place}. {values[row]}" if place else values[row]
            axes.set_title(label, fontsize=8, color="#1b7f4d" if is_same and place else "#444")
            axes.axis("off")
    figure.savefig(path, dpi=100, pil_kwargs={"quantize": 128})
    _save(Image.open(path).convert("RGB"), path.name)


def _draw_map(
    axes: Any, source: dict[str, Any], values: list[str], chosen: int, title: str
) -> None:
    places, names = np.array(source["map"]), sorted(set(values))
    for index, name in enumerate(names):
        shown = np.array(values) == name
        color = colormaps["tab10"](index % 10)
        axes.scatter(*places[shown].T, s=28, color=color, label=name)
    axes.scatter(*places[chosen], s=130, facecolors="none", edgecolors="#d1495b", linewidths=2)
    ami = source["ami"]
    axes.set_title(f"{title}\nAMI with motion {ami['motion']:.2f}, with scene {ami['scene']:.2f}")
    axes.set(xticks=[], yticks=[])
    axes.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.01), frameon=False)


def _clearest(source: dict[str, Any], values: list[str]) -> int:
    """Return the video with the most neighbors of its own motion, the first of several."""
    near = np.array([row[:_NUM_NEIGHBORS] for row in source["neighbors"]])
    same = np.array(values)[near] == np.array(values)[:, None]
    return int(same.sum(axis=1).argmax())


def _frame(thumb: dict[str, Any]) -> Image.Image:
    """Return the middle frame of a filmstrip with tracks."""
    strip = thumb["tracks"]
    picture = Image.open(io.BytesIO(base64.b64decode(strip["uri"].partition(",")[2])))
    width, middle = picture.width // strip["frames"], strip["frames"] // 2
    return picture.crop((middle * width, 0, (middle + 1) * width, picture.height))


def _draw_labels(workdir: Path) -> None:
    table = workdir / "manifest" / "manifest.tsv"
    command = [
        sys.executable,
        "-m",
        "vcjax",
        "label-efficiency",
        "--manifest",
        str(table),
    ]
    command += ["--label", "motion", "--run", str(workdir), "--out", str(workdir / "labels")]
    subprocess.run([*command, "--shots", "1", "2", "4"], check=True)
    with Image.open(workdir / "labels" / "label_efficiency.png") as plot:
        _save(plot.convert("RGB"), "label_efficiency.png")


def _save(picture: Image.Image, name: str) -> None:
    picture.thumbnail((_MAX_WIDTH, _MAX_WIDTH * 2))
    path = DOCS / name
    picture.quantize(128, Image.Quantize.FASTOCTREE).save(path, optimize=True)
    size = path.stat().st_size
    assert size < _MAX_BYTES, f"{path}: {size} bytes"
    print(f"{path}: {size} bytes")


if __name__ == "__main__":
    main()
