"""The whole evaluation of 48 videos, of which a few have pictures."""

import json
import re
from dataclasses import replace
from fractions import Fraction
from urllib.parse import unquote

import av
import numpy as np
import pytest
from PIL import Image

from vcjax import evaluation
from vcjax.clustering import kmeans
from vcjax.data.manifest import Manifest

N = 48
MARKUP = "<script>alert(1)</script>"


def _write_video(path, shade):
    with av.open(path, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"threads": "1", "preset": "ultrafast"}
        for t in range(6):
            picture = np.full((48, 64, 3), shade, np.uint8)
            picture[:, 8 * t : 8 * t + 8] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for shade in range(6):
        _write_video(folder / f"{shade}.mp4", 40 * shade)
    (folder / "6.mp4").write_text("not a video")  # and 7.mp4 is missing
    rows = range(N)
    return Manifest(
        video_ids=tuple(f"<v>{row:02d}" for row in rows),
        paths=tuple(str(folder / f"{row % 8}.mp4") for row in rows),
        labels={
            "motion": tuple([MARKUP, "run", "walk"][row % 3] for row in rows),
            "only": tuple("one" for _ in rows),
            "scene": tuple(f"scene{row // 6}" for row in rows),
        },
        split=tuple("test" if row < 18 else "train" for row in rows),
        num_frames=tuple(6 for _ in rows),
    )


def _outputs(manifest, seed=0):
    generator = np.random.default_rng(seed)
    motion = np.eye(3)[np.arange(N) % 3]
    embedding = np.concatenate([4 * motion, generator.normal(size=(N, 5))], axis=1)
    embedding = (embedding / np.linalg.norm(embedding, axis=1, keepdims=True)).astype(np.float32)
    pooled = generator.normal(size=(N, 16)).astype(np.float32)
    pooled[:, :3] += 10 * motion
    num_train = len(manifest.rows("train"))
    exact = np.stack([np.arange(18, N) % 3] * 2)
    has_vector = np.arange(N) % 5 != 0
    missing = np.flatnonzero(~has_vector[18:])
    idt_labels = exact.copy()
    idt_labels[:, missing] = 3 + missing  # clusters of their own
    models = {
        "scratch": evaluation.ModelOutputs(
            generator.normal(size=(N, 8)).astype(np.float32),
            generator.normal(size=(N, 16)).astype(np.float32),
            generator.integers(0, 4, (2, num_train)),
        ),
        "la_idt": evaluation.ModelOutputs(embedding, pooled, exact),
    }
    vectors = embedding * has_vector[:, None]
    distances = [kmeans.distances(vectors[18:], labels) for labels in idt_labels]
    read = vectors.__getitem__
    return models, evaluation.IdtOutputs(read, has_vector, idt_labels, np.stack(distances))


def _evaluate(manifest, outputs, idt, directory, **options):
    (directory / "evaluate").mkdir(parents=True, exist_ok=True)
    return evaluation.evaluate(
        manifest, outputs, idt, directory=directory / "evaluate",
        **{"group": "scene", "seed": 0, "dataset": "a<b", "seconds": {"ir": 1.5}, **options},
    )  # fmt: skip


@pytest.fixture(scope="module")
def evaluated(manifest, tmp_path_factory):
    directory = tmp_path_factory.mktemp("work")
    return _evaluate(manifest, *_outputs(manifest), directory), directory


def test_the_report_has_its_fixed_form(evaluated):
    report, directory = evaluated
    assert json.loads((directory / "report.json").read_text()) == report
    assert report["dataset"] == "a<b" and report["seconds"] == {"ir": 1.5}
    assert set(report["models"]) == {"scratch", "la_idt"}
    for entry in report["models"].values():
        assert entry.keys() == {"neighbor", "linear", "few_shot", "vote", "retrieval", "clusters"}
        assert entry["neighbor"].keys() == entry["linear"].keys() == {"motion", "scene"}
    assert report["idt"].keys() == {"linear", "clusters"}
    for entry in [*report["models"].values(), report["idt"]]:
        assert entry["clusters"].keys() == {"ami", "num"}
        assert entry["clusters"]["ami"].keys() == {"motion", "scene"}


def test_figures_of_a_representation_that_knows_the_motion(evaluated):
    report, _ = evaluated
    entry = report["models"]["la_idt"]
    assert entry["vote"]["motion"] == entry["retrieval"]["motion"]["1"] == 1.0
    assert entry["few_shot"]["motion"]["5"]["mean"] > 0.9
    assert entry["neighbor"]["motion"] == entry["linear"]["motion"] == 1.0
    assert entry["clusters"] == {"ami": pytest.approx(entry["clusters"]["ami"]), "num": 3}
    assert entry["clusters"]["ami"]["motion"] == pytest.approx(1.0)
    assert report["idt"]["clusters"]["num"] == 3  # videos without a vector are no clusters
    assert report["chance"]["motion"] == pytest.approx(1 / 3)
    assert report["num_videos"] == {"train": 30, "test": 18}
    assert report["asked"]["scene"] == {"fit": 9, "test": 9, "within_test": True}


def test_folds_are_held_out_in_turn_and_no_video_is_kept_from_training(manifest, tmp_path):
    everything = replace(manifest, split=("train",) * N)
    generator = np.random.default_rng(1)
    motion = np.eye(3)[np.arange(N) % 3]
    embedding = (motion + 0.01 * generator.normal(size=(N, 3))).astype(np.float32)
    exact = (np.arange(N) % 3)[None]
    outputs = {"la": evaluation.ModelOutputs(embedding, embedding, exact)}
    report = _evaluate(everything, outputs, None, tmp_path, folds="scene")
    entry = report["models"]["la"]
    assert report["held_out_in_turn"] == "scene"
    assert entry["neighbor"] == entry["linear"] == {"motion": 1.0}  # no scene is in two folds
    assert entry["linear_by_fold"]["motion"] == [1.0] * 8
    assert report["asked"]["motion"] == {"fit": N - 6, "test": N, "within_test": False}
    mixed = entry["clusters"]["mixed"]["motion"]
    assert mixed["num_videos"] == N and mixed["label"] == pytest.approx(1)
    assert f"evaluated on {N} videos" in evaluation.table(report)


def test_only_the_chosen_labels_are_reported_with_the_same_figures(manifest, evaluated, tmp_path):
    report = _evaluate(manifest, *_outputs(manifest), tmp_path, labels=("motion",))
    for part in (report["asked"], report["chance"], report["idt"]["clusters"]["ami"]):
        assert part.keys() == {"motion"}
    for name, entry in report["models"].items():
        for measure in ("neighbor", "linear", "few_shot", "vote", "retrieval"):
            assert entry[measure] == {"motion": evaluated[0]["models"][name][measure]["motion"]}


def test_training_videos_beyond_the_limit_are_left_out_with_a_word(manifest, tmp_path, caplog):
    outputs, _ = _outputs(manifest)
    probing = evaluation.ProbeSettings(max_train=12)
    report = _evaluate(manifest, outputs, None, tmp_path, probing=probing)
    assert report["asked"]["motion"] == {"fit": 12, "test": 18, "within_test": False}
    assert "the label 'motion' is probed with 12 of 30 training videos" in caplog.text


def test_a_probe_reads_no_fisher_vectors_but_those_of_its_own_videos(manifest, tmp_path):
    outputs, idt = _outputs(manifest)
    calls = []

    def read(rows):
        calls.append(rows)
        return idt.read(rows)

    probing = evaluation.ProbeSettings(max_train=12)
    _evaluate(manifest, outputs, idt._replace(read=read), tmp_path, probing=probing, group="")
    assert [len(rows) for rows in calls] == [12 + 18, N]  # probes, then the sample of the page


def test_the_group_is_told_from_held_out_videos_alone(manifest, evaluated, tmp_path):
    outputs, idt = _outputs(manifest)
    training = manifest.rows("train")
    for output in outputs.values():
        output.embedding[training] = 1.0
        output.pooled[training] = -5.0
    vectors = idt.read(np.arange(N))
    vectors[training] = 1.0
    idt = idt._replace(read=vectors.__getitem__)
    report = _evaluate(manifest, outputs, idt, tmp_path)
    for name, entry in evaluated[0]["models"].items():
        for probe in ("neighbor", "linear"):
            assert report["models"][name][probe]["scene"] == entry[probe]["scene"]
    assert report["idt"]["linear"]["scene"] == evaluated[0]["idt"]["linear"]["scene"]
    assert report["models"]["la_idt"]["linear"]["motion"] < 1  # which does learn from them


def test_the_order_of_the_manifest_changes_nothing(manifest, evaluated, tmp_path):
    order = np.random.default_rng(5).permutation(N)
    outputs, idt = _outputs(manifest)
    column = {row: i for i, row in enumerate(manifest.rows("train").tolist())}
    columns = [column[row] for row in order.tolist() if row in column]
    pick = lambda values: tuple(values[row] for row in order)  # noqa: E731
    permuted = replace(
        manifest,
        labels={name: pick(values) for name, values in manifest.labels.items()},
        **{k: pick(getattr(manifest, k)) for k in ("video_ids", "paths", "split", "num_frames")},
    )
    outputs = {
        name: evaluation.ModelOutputs(o.embedding[order], o.pooled[order], o.labels[:, columns])
        for name, o in outputs.items()
    }
    vectors = idt.read(order)
    idt = evaluation.IdtOutputs(
        vectors.__getitem__, idt.has_vector[order], idt.labels[:, columns],
        idt.distances[:, columns],
    )  # fmt: skip
    assert _evaluate(permuted, outputs, idt, tmp_path) == evaluated[0]
    runs = [_run(directory) for directory in (tmp_path, evaluated[1])]
    assert [run.pop("name") for run in runs] == [tmp_path.name, evaluated[1].name]
    assert runs[0] == runs[1]


def test_without_trajectories_there_is_no_idt(manifest, tmp_path):
    report = _evaluate(manifest, _outputs(manifest)[0], None, tmp_path)
    assert "idt" not in report and "IDT Fisher vectors" not in evaluation.table(report)


def test_outputs_of_other_videos_or_diverged_ones_are_refused(manifest, tmp_path):
    outputs, idt = _outputs(manifest)
    good = outputs["la_idt"]
    with pytest.raises(ValueError, match="la_idt: pooled has 47 videos, the manifest 48"):
        _evaluate(manifest, {"la_idt": good._replace(pooled=good.pooled[1:])}, idt, tmp_path)
    diverged = good._replace(embedding=np.full_like(good.embedding, np.nan))
    with pytest.raises(ValueError, match="la_idt: embedding is not finite"):
        _evaluate(manifest, {"la_idt": diverged}, idt, tmp_path)
    with pytest.raises(ValueError, match="no model '../up' in a report"):
        _evaluate(manifest, {"../up": good}, idt, tmp_path)


def _run(directory):
    """The data of the run on its page."""
    page = (directory / "evaluate" / "index.html").read_text()
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])["runs"][0]


def test_the_page_links_to_pictures_that_exist_and_escapes_what_users_wrote(evaluated):
    folder = evaluated[1] / "evaluate"
    page = (folder / "index.html").read_text()
    assert page.count("<script") == page.count("</script>") == 2 and MARKUP not in page
    assert "<v>" not in page and "\\u003cv>18" in page and "a\\u003cb" in page
    run = _run(evaluated[1])
    assert run["folder"] == "."
    sources = [c["sheet"] for source in run["sources"] for c in source["clusters"]]
    sources += [f"{source['name']}/clusters.png" for source in run["sources"]]
    assert len(sources) == len(set(sources))
    for source in sources:
        assert not re.match(r"[a-z]+:|/|\.\.", source)
        with Image.open(folder / unquote(source)) as picture:
            picture.verify()
    drawn = {str(path.relative_to(folder)) for path in folder.rglob("*.png")}
    assert drawn == set(sources)
    assert {s for s in sources if s.startswith("idt/")} == {
        "idt/clusters.png", "idt/no_trajectories.png",
        *(f"idt/cluster_{i:03d}.png" for i in range(3)),
    }  # fmt: skip


def test_the_page_shows_the_reports_figures(evaluated):
    report, directory = evaluated
    run = _run(directory)
    accuracy = report["models"]["scratch"]["neighbor"]["motion"]
    (row,) = [row for row in run["tables"][0] if row[0] == "Scratch"]
    assert run["tables"][0][0][0] == "motion" and row[1] == f"{100 * accuracy:.1f}"
    assert "18 held-out videos, 30 training videos" in run["notes"]
    (idt,) = [source for source in run["sources"] if source["name"] == "idt"]
    assert idt["clusters"][-1]["title"] == "No trajectories: 6 videos"
    assert idt["summary"] == "3 clusters of 24 training videos"
