"""The report of a GPU: its parts, its file, and parts that fail."""

import json

import pytest

from vcjax.bench import report


def test_each_part_is_a_line_of_the_file(tmp_path, capsys):
    path = tmp_path / "report.json"
    report.main(["--tiny", "--parts=peaks,kmeans 128", f"--json={path}"])
    written = json.loads(path.read_text())
    assert written["tiny"] and written["machine"]["jax"]
    peaks, kmeans = written["parts"]
    assert peaks["status"] == kmeans["status"] == "ok"
    assert all(r["numbers"]["matmul_tflops"] > 0 for r in peaks["results"])
    assert "peaks: ok" in capsys.readouterr().out


def test_a_part_that_fails_or_takes_too_long_loses_only_its_line(tmp_path):
    options = report.Options(tiny=True, shards="")
    slow = report.Part("peaks", 0.1, lambda options: [])
    assert report.run(slow, options, tmp_path, 100)["status"] == "time limit"
    unknown = report.Part("no such part", 60, lambda options: [])
    failed = report.run(unknown, options, tmp_path, 100)
    assert failed["status"] == "failed" and failed["log"]
    assert report.run(slow, options, tmp_path, 1)["status"] == "no time left"


def test_parts_after_one_that_takes_too_long_run(tmp_path, monkeypatch, capsys):
    slow = report.Part("peaks", 0.1, lambda options: [])
    (kmeans,) = [part for part in report.parts() if part.name == "kmeans 128"]
    monkeypatch.setattr(report, "parts", lambda: [slow, kmeans])
    path = tmp_path / "report.json"
    report.main(["--tiny", f"--json={path}"])
    parts = json.loads(path.read_text())["parts"]
    assert [part["status"] for part in parts] == ["time limit", "ok"]
    assert parts[1]["results"] and not parts[0]["results"]
    lines = capsys.readouterr().out
    assert "peaks: time limit" in lines and "kmeans 128: ok" in lines


def test_names_of_parts_are_unique_and_an_unknown_one_is_refused(capsys):
    names = [part.name for part in report.parts()]
    assert len(set(names)) == len(names)
    with pytest.raises(SystemExit):
        report.main(["--parts=nothing"])
    assert "no part begins with" in capsys.readouterr().err
