"""The command `explore` on a few rendered videos, and its page, table and clusters."""

import json
import re
import subprocess
import sys

import av
import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score

import vcjax
from vcjax import settings
from vcjax.commands import explore
from vcjax.data import manifest as manifests
from vcjax.data import synthetic
from vcjax.pipeline import explore as stage


def _run(*arguments):
    command = [sys.executable, "-m", "vcjax", "explore", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """12 rendered videos, and one in which nothing moves."""
    table = synthetic.render(tmp_path_factory.mktemp("v"), num_videos=12, seed=0, num_workers=2)
    with av.open(table.parent / "still.mp4", "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        picture = np.full((120, 160, 3), 90, np.uint8)
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    header, first = table.read_text().splitlines()[:2]
    row = dict(zip(header.split("\t"), first.split("\t"), strict=True))
    row |= {"video_id": "still", "path": "still.mp4"}
    table.write_text(table.read_text() + "\t".join(row[k] for k in header.split("\t")) + "\n")
    return table


@pytest.fixture(scope="module")
def explored(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explored")
    ids = manifests.read(videos).video_ids
    rows = np.random.default_rng(0).normal(size=(len(ids), 5))
    np.savez(folder / "other.npz", video_id=np.array(ids), embedding=rows)
    done = _run(
        videos, "--out", folder / "run", "--num_clusters", 4,
        "--embeddings", f"other={folder / 'other.npz'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "run", done


def _page(run):
    text = (run / "explore" / "index.html").read_text()
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])


@pytest.mark.slow
def test_the_command_ends_with_the_page(explored):
    run, done = explored
    page = (run / "explore" / "index.html").as_uri()
    assert done.stdout.rstrip().endswith(f"page: {page}")
    assert "Looks (HOG) and other share" in done.stdout


@pytest.mark.slow
def test_page_report_and_clusters_agree(explored, videos):
    run, _ = explored
    table, manifest = vcjax.load_clusters(run / "explore"), manifests.read(videos)
    report = json.loads((run / "explore" / "report.json").read_text())
    shown = {source["name"]: source for source in _page(run)["runs"][0]["sources"]}
    assert table.spaces == sorted(shown) == ["idt", "looks", "motion", "other"]
    for name, source in shown.items():
        runs = [table.of(name, run=number) for number in range(3)]
        for label, values in manifest.own_labels.items():
            scores = [
                adjusted_mutual_info_score(values, [labels[i] for i in manifest.video_ids])
                for labels in runs
            ]
            assert report["models"][name]["clusters"]["ami"][label] == pytest.approx(
                np.mean(scores)
            )
        assert source["ami"] == report["models"][name]["clusters"]["ami"]
        assert source["members"] == [runs[0][i] for i in manifest.video_ids]
        assert len(set(source["members"]) - {-1}) == 4


@pytest.mark.slow
def test_a_video_in_which_nothing_moves_has_no_cluster(explored):
    run, done = explored
    table = vcjax.load_clusters(run / "explore")
    assert table.of("motion")["still"] == -1 and table.of("other")["still"] >= 0
    sources = {s["name"]: s for s in _page(run)["runs"][0]["sources"]}
    assert sources["motion"]["clusters"][-1]["title"] == "No trajectories: 1 video"
    assert "Motion (HOF, MBH): 12 videos in 4 clusters" in done.stdout
    assert "1 without trajectories" in done.stdout


@pytest.mark.slow
def test_the_page_shows_tracks_and_requests_nothing(explored):
    data = _page(explored[0])
    assert all(thumb["tracks"]["frames"] == 8 for thumb in data["thumbs"])
    text = (explored[0] / "explore" / "index.html").read_text()
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)
    names = [source["name"] for source in data["runs"][0]["sources"]]
    assert [names[i] for i in data["pair"]] == ["looks", "motion"]


@pytest.mark.slow
def test_vectors_can_be_taken_away(explored, videos):
    with np.load(explored[0] / "explore" / "vectors.npz") as arrays:
        assert arrays["video_id"].tolist() == list(manifests.read(videos).video_ids)
        norms = np.linalg.norm(arrays["motion"], axis=1)
        moves = arrays["video_id"] != "still"
        np.testing.assert_allclose(norms, moves, atol=1e-4)


@pytest.mark.slow
def test_ids_of_other_videos_are_refused_before_any_work(videos, tmp_path):
    np.savez(tmp_path / "e.npz", video_id=np.array(["x"]), embedding=np.ones((1, 2)))
    done = _run(videos, "--out", tmp_path / "run", "--embeddings", f"e={tmp_path / 'e.npz'}")
    assert done.returncode == 1 and "no row for 13 of 13 videos" in done.stderr
    assert not (tmp_path / "run" / "explore").exists()


def test_training_libraries_are_not_imported(tmp_path):
    (tmp_path / "videos.tsv").write_text("path\na.mp4\n")
    code = """
import pathlib, runpy, sys
from vcjax.pipeline import build
from vcjax.runtime import config_flags
config = runpy.run_path(config_flags.find("explore.py"))["get_config"]()
config.data.manifest = sys.argv[1]
build.build(config, pathlib.Path("."))
print(sorted({"flax", "optax", "orbax", "grain", "tensorboardX"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "videos.tsv")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"


def test_the_number_of_clusters_is_the_square_root_of_the_number_of_videos():
    assert [stage.num_clusters(0, n) for n in (3, 10, 60, 5000)] == [2, 3, 8, 71]
    assert stage.num_clusters(5, 60) == 5
    with pytest.raises(settings.SettingsError, match="10 clusters need more than 10 videos"):
        stage.num_clusters(10, 10)


def test_unknown_arguments_are_refused(capsys):
    with pytest.raises(SystemExit):
        explore.main(["videos", "--cluster", "3"])
    assert "unrecognized arguments: --cluster 3" in capsys.readouterr().err
