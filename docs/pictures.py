"""Draw the pictures of the documentation from rendered videos.

    python docs/pictures.py --workdir runs/rendered

The videos are explored by `vcjax main --config=explore.py:rendered`; complete stages are not
repeated. `explore.png` is a screenshot of the page, whose title is the name of the folder. It needs
a Chromium on PATH, or the file that the environment variable CHROMIUM names, and is skipped
without one.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
from PIL import Image

DOCS = Path(__file__).parent
_NUM_VIDEOS = 64
_NUM_NEIGHBORS = 5
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_WINDOW = "1000,968"  # width and height of the screenshot in CSS pixels
_SCALE = 1.2  # pixels of the screenshot per CSS pixel
_MAX_WIDTH = 1100  # pixels of the other pictures
_MAX_BYTES = 300_000


def main() -> None:
    """Explore rendered videos and write the pictures into the folder of this file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", type=Path, default=Path("runs/rendered"))
    workdir = parser.parse_args().workdir
    command = [sys.executable, "-m", "vcjax.main", "--config=explore.py:rendered"]
    command += [f"--config.data.rendered.num_videos={_NUM_VIDEOS}", f"--workdir={workdir}"]
    subprocess.run(command, check=True)
    folder = workdir / "explore"
    _screenshot(folder / "index.html", DOCS / "explore.png")
    for name in ("looks", "motion"):
        with Image.open(folder / name / "clusters.png") as sheet:
            rows = sheet.convert("RGB").crop((0, 0, sheet.width, 6 * 94 + 10))
            rows.thumbnail((_MAX_WIDTH, _MAX_WIDTH))
            _save(rows, f"{name}.png")
    _draw_labels(workdir)


def _screenshot(page: Path, path: Path) -> None:
    """Photograph the upper part of an explorer page in a headless Chromium, if there is one."""
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        print(f"{path}: skipped, no Chromium on PATH; CHROMIUM=FILE names one", file=sys.stderr)
        return
    selection = urlencode(
        {"left": "looks", "right": "motion", "label": "motion", "video": _clearest(page)}
    )
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "page.png"
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={folder}/profile", "--virtual-time-budget=3000"]
        command += ["--force-prefers-reduced-motion", f"--force-device-scale-factor={_SCALE}"]
        command += [f"--window-size={_WINDOW}", f"--screenshot={picture}"]
        address = f"{page.absolute().as_uri()}#{selection}"
        subprocess.run([*command, address], check=True, capture_output=True)
        with Image.open(picture) as shot:
            _save(shot.convert("RGB"), path.name, num_colors=256)


def _clearest(page: Path) -> str:
    """Return the first video with the most neighbors of its own motion, by motion."""
    data = re.search(r'id="data">(.*?)</script>', page.read_text("utf-8"), re.S)
    assert data, page
    (run,) = json.loads(data[1])["runs"]
    source = next(source for source in run["sources"] if source["name"] == "motion")
    values = np.array([video["labels"]["motion"] for video in run["videos"]])
    near = np.array([row[:_NUM_NEIGHBORS] for row in source["neighbors"]])
    same = values[near] == values[:, None]
    return str(run["videos"][int(same.sum(axis=1).argmax())]["id"])


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


def _save(picture: Image.Image, name: str, num_colors: int = 128) -> None:
    path = DOCS / name
    picture.quantize(num_colors, Image.Quantize.FASTOCTREE).save(path, optimize=True)
    size = path.stat().st_size
    assert size < _MAX_BYTES, f"{path}: {size} bytes"
    print(f"{path}: {size} bytes")


if __name__ == "__main__":
    main()
