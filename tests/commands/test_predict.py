"""A classifier finetuned on a few rendered videos: its predictions before and after export."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

import vcjax
from vcjax.commands import predict
from vcjax.interop.__main__ import main as interop


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    subprocess.run(
        [sys.executable, "-m", "vcjax.main", "--config=scratch.py:smoke,finetune",
         "--config.finetune.label=motion", "--config.seed=3", "--stages=manifest,ingest,finetune",
         f"--workdir={workdir}"],
        check=True, timeout=900,
    )  # fmt: skip
    return workdir


def _predict(checkpoint, run, out, *more):
    table = run / "manifest" / "manifest.tsv"
    predict.main(["--checkpoint", str(checkpoint), "--manifest", str(table), "--out", str(out),
                  *more])  # fmt: skip
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_predictions_have_the_accuracy_of_the_evaluation(run, tmp_path, capsys):
    result = json.loads((run / "finetune" / "result.json").read_text())
    (split,) = result["splits"].values()
    interop(["export", str(run / "finetune"), "--out", str(tmp_path / "exported")])
    pth = tmp_path / "exported" / "pytorch_model.pth"
    interop(["import", str(pth), "--out", str(tmp_path / "imported")])
    written = []
    for source in (run / "finetune" / "split", tmp_path / "exported", tmp_path / "imported"):
        capsys.readouterr()
        rows = _predict(source, run, tmp_path / "p.csv", "--only", "split=test")
        line = f"accuracy of motion: {split['accuracy']!r} on {split['num_test']} videos"
        assert line in capsys.readouterr().out
        written.append(rows)
    assert written[0] == written[1] == written[2]
    probabilities = np.array([[float(row[c]) for c in split["classes"]] for row in written[0]])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    chosen = np.array(split["classes"])[probabilities.argmax(axis=1)]
    assert [row["class"] for row in written[0]] == chosen.tolist()


@pytest.mark.slow
def test_windows_are_predicted_with_their_times(run, tmp_path):
    rows = _predict(run / "finetune", run, tmp_path / "p.csv", "--only", "split=test",
                    "--window", "0.5")  # fmt: skip
    assert {"video_id", "start", "end", "class"} <= rows[0].keys()
    assert all(float(row["end"]) > float(row["start"]) for row in rows)


@pytest.mark.slow
def test_a_classifier_embeds_by_its_pooled_features(run):
    network = vcjax.load(run / "finetune")
    shape = (2, network.clip["num_frames"], network.clip["side"], network.clip["side"], 3)
    embedding, pooled = network(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    np.testing.assert_allclose(
        embedding, pooled / np.linalg.norm(pooled, axis=1, keepdims=True), rtol=1e-5
    )


@pytest.mark.slow
def test_a_column_without_the_value_is_refused(run, tmp_path):
    with pytest.raises(SystemExit, match="--only: no video has split=val"):
        _predict(run / "finetune", run, tmp_path / "p.csv", "--only", "split=val")
