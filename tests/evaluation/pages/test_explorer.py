"""The explorer's data, and the page in a real browser where there is one."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vcjax import evaluation
from vcjax.data import manifest as manifests
from vcjax.data import synthetic, verify
from vcjax.evaluation.__main__ import main
from vcjax.evaluation.pages import explorer

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
NODE = shutil.which("node")
NUM = 24
MARKUP = "</script><script>document.title='taken'</script>"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    source = synthetic.render(tmp_path_factory.mktemp("v"), num_videos=NUM, seed=0, num_workers=1)
    counted, _ = verify.verify(
        manifests.read(source), on_error="error", decode=False, num_workers=1
    )
    labels = {"motion": tuple([MARKUP, "run", "walk"][row % 3] for row in range(NUM))}
    ids = (*counted.video_ids[:-1], f"zz{MARKUP}")
    split = ("train",) * 16 + ("test",) * 8
    return replace(counted, video_ids=ids, labels=labels, split=split)


@pytest.fixture(scope="module")
def runs(manifest, tmp_path_factory):
    """Two runs: embeddings on a circle, each nearest to the next two, or that of motions."""
    folders = []
    turn = 2 * np.pi * np.arange(NUM) / NUM
    circle = np.column_stack([np.cos(turn), np.sin(turn)])
    motion = np.eye(3)[np.arange(NUM) % 3] + 0.01 * np.random.default_rng(0).normal(size=(NUM, 3))
    for name, embedding in (("round", circle), ("motion", motion)):
        folder = tmp_path_factory.mktemp("runs") / name
        (folder / "evaluate").mkdir(parents=True)
        lines = [{"stage": "ir", "step": s, "epoch": s / 2, "loss": 4.0 - s} for s in (1, 2)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        output = evaluation.ModelOutputs(
            embedding.astype(np.float32), embedding.astype(np.float32), np.arange(16)[None] % 3
        )
        evaluation.evaluate(
            manifest, {"la": output}, None, group="", seed=0, directory=folder / "evaluate",
            dataset="d", seconds={},
        )  # fmt: skip
        folders.append(folder)
    return folders


def _data(page):
    text = page.read_text()
    assert text.count("</script>") == 2  # markup in names ends nothing
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])


def test_neighbors_clusters_answers_and_curves_are_the_runs(runs):
    (run,) = _data(runs[0] / "evaluate" / "index.html")["runs"]
    (source,) = run["sources"]
    assert {*source["neighbors"][5][:2]} == {4, 6} and len(source["neighbors"][5]) == 12
    assert [cluster["size"] for cluster in source["clusters"]] == [6, 5, 5]
    assert source["clusters"][0]["common"]["motion"] == [MARKUP, 1.0]
    assert source["predictions"]["motion"]["rows"] == list(range(16, NUM))
    assert run["curves"] == {"ir": {"loss": [[0.5, 3.0], [1.0, 2.0]]}}
    right = np.mean(
        [
            run["videos"][row]["labels"]["motion"] == predicted
            for row, predicted in zip(*source["predictions"]["motion"].values(), strict=True)
        ]
    )
    report = json.loads((runs[0] / "report.json").read_text())
    assert right == report["models"]["la"]["linear"]["motion"]


def test_two_runs_share_their_pictures(runs, tmp_path, capsys):
    main(["explore", *map(str, runs), "--out", str(tmp_path / "two.html")])
    data = _data(tmp_path / "two.html")
    assert [run["name"] for run in data["runs"]] == ["round", "motion"]
    assert len(data["thumbs"]) == NUM and data["pair"] == [0, 1]
    assert all(thumb["uri"].startswith("data:image/jpeg;base64,") for thumb in data["thumbs"])
    assert {thumb["ratio"] for thumb in data["thumbs"]} == {1.3333}


def test_pictures_of_many_videos_stay_within_20_mb(monkeypatch):
    for count in (211, 2000):
        frames = min(max(int(explorer._MAX_BYTES / explorer._BYTES_A_FRAME / count), 1), 8)
        assert 1 <= frames and count * frames * explorer._BYTES_A_FRAME < 18e6
    assert len(explorer.sample(100_000, 0)) == 2000


def test_a_map_keeps_what_is_apart_apart():
    generator = np.random.default_rng(0)
    points = np.repeat(np.eye(3), 20, axis=0) + 0.01 * generator.normal(size=(60, 3))
    places = explorer.plane(points)
    assert np.abs(places).max() == pytest.approx(1)
    centers = places.reshape(3, 20, 2).mean(axis=1)
    spread = np.linalg.norm(places.reshape(3, 20, 2) - centers[:, None], axis=2).max()
    gap = min(np.linalg.norm(centers[i] - centers[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert gap > 2 * spread


def test_a_long_learning_curve_is_thinned_evenly_up_to_its_last_point(tmp_path):
    lines = [{"stage": "ir", "step": s, "epoch": float(s), "loss": s / 2} for s in range(1, 1201)]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    points = np.array(explorer.curves(path)["ir"]["loss"])
    assert len(points) == 400 and points[-1].tolist() == [1200, 600]
    np.testing.assert_array_equal(np.diff(points[:, 0]), 3)


def test_runs_without_an_evaluation_say_what_to_do(tmp_path):
    with pytest.raises(SystemExit, match="run the stage evaluate first"):
        main(["explore", str(tmp_path), "--out", str(tmp_path / "x.html")])


def _browse(page, profile):
    """The page after its scripts ran, and what they wrote to the console."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={profile}", "--virtual-time-budget=3000", "--dump-dom", page]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def _script(runs, folder):
    """Return the result of the page's script on the minimal document of `page.js`."""
    explorer.write(runs, folder / "two.html")
    command = [NODE, Path(__file__).with_name("page.js"), folder / "two.html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(NODE is None, reason="no node")
def test_the_script_draws_every_label_and_obeys_the_keyboard(runs, tmp_path):
    page = _script(runs, tmp_path)
    assert list(page["drawn"]) == ["motion", "cluster on the left", "cluster on the right"]
    neighbors, clusters = 13, 16  # the video itself and 12 neighbors; all training videos
    for drawn in page["drawn"].values():
        assert drawn["counts"] == [neighbors, neighbors, NUM, NUM, clusters, clusters]
        assert drawn["colors"] == 3
    assert page["title"] == "Explorer: round and motion"
    assert page["chosen"] in {"video00001", f"zz{MARKUP}"}  # the neighbor that was entered
    assert page["named"] and page["hasPredictions"] and not page["hasTracks"]
    assert page["entered"]  # the focus is on the selected video, not lost with its old thumbnail
    assert page["moved"]  # an arrow key on the map selects another video
    assert page["matches"] == ""  # of an empty search


@pytest.mark.skipif(NODE is None, reason="no node")
def test_a_selection_keeps_maps_and_clusters_and_marks_the_video_there(runs, tmp_path):
    page = _script(runs, tmp_path)
    assert page["kept"]
    assert page["marks"] == [24, 2]  # on two maps: 12 neighbors and the video
    assert page["onTop"] == "chosen"
    assert set(page["shownChosen"]) <= {page["chosen"]}


@pytest.mark.skipif(NODE is None, reason="no node")
def test_an_address_selects_the_spaces_the_label_and_the_video(runs, tmp_path):
    page = _script(runs, tmp_path)
    assert page["opened"] == [1, 0, "motion", "video00005"]
    assert page["link"] == "#left=motion%2Fla&right=round%2Fla&label=motion&video=video00005"
    assert page["fallback"] == [1, 1, "motion"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_the_page_works_in_a_browser(runs, tmp_path):
    page = tmp_path / "two.html"
    explorer.write(runs, page)
    typing = """<script>
const box = document.getElementById("search");
box.value = "video00005"; box.dispatchEvent(new Event("input"));
console.log("typed");
</script></body>"""
    page.write_text(page.read_text().replace("</body>", typing))
    dom, console = _browse(page.as_uri(), tmp_path / "profile")
    assert len(console) == 1 and "typed" in console[0]  # which it would say of errors too
    assert "<title>Explorer: round and motion</title>" in dom
    left, right = (part.split("<h2>")[0] for part in dom.split('class="thumbs neighbors"')[1:])
    neighbors = re.findall(r'<figure title="(video\d+|zz)', left)
    assert {*neighbors[:2]} == {"video00004", "video00006"}
    same = re.findall(r'<figcaption class="same(?: shared)?">\d+\. (\w+)<', right)
    assert same == ["walk"] * 7  # all others of its motion come first
    assert dom.count("<circle") == 2 * NUM and "Cluster 0: 6 videos" in dom
    assert '<path fill="none"' in dom


MEASURE = """<script>
addEventListener("load", () => {
  const { scrollWidth, clientWidth } = document.documentElement;
  const light = color => color.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
    .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
    .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const contrast = (text, page) => {
    const [low, high] = [light(text), light(page)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const pages = [document.body, document.querySelector(".panes > div")].map(
    node => getComputedStyle(node).backgroundColor);
  const texts = ["body", "p", "h3", "figcaption", "figcaption.same", "nav a", ".legend"].map(
    name => getComputedStyle(document.querySelector(name)).color);
  console.log("measured " + JSON.stringify({
    width: [scrollWidth, clientWidth], dark: matchMedia("(prefers-color-scheme: dark)").matches,
    contrast: Math.min(...texts.flatMap(text => pages.map(page => contrast(text, page)))),
    requests: performance.getEntriesByType("resource").map(entry => entry.name) }));
});
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_the_page_is_readable_on_a_phone_and_in_the_dark(runs, tmp_path):
    explorer.write(runs, tmp_path / "two.html")
    text = (tmp_path / "two.html").read_text()
    (tmp_path / "two.html").write_text(text.replace("</body>", MEASURE))
    frame = '<iframe src="two.html" style="width: {}px; height: 700px; color-scheme: {}"></iframe>'
    frames = frame.format(360, "dark") + frame.format(1200, "light")
    (tmp_path / "frames.html").write_text(f"<!doctype html>{frames}")
    _, console = _browse((tmp_path / "frames.html").as_uri(), tmp_path / "profile")
    assert len(console) == 2  # no errors
    pages = [json.loads(re.search(r"measured (\{.*\})", line)[1]) for line in console]
    phone, desktop = sorted(pages, key=lambda page: page["width"][1])
    assert phone["dark"] and not desktop["dark"]
    for page, width in ((phone, 360), (desktop, 1200)):
        assert page["width"][0] == page["width"][1] and 0 <= width - page["width"][1] <= 20
        assert page["contrast"] >= 4.5 and page["requests"] == []  # WCAG 2, level AA
