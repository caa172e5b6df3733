import csv

import numpy as np
import pytest

import vcjax
from vcjax.data import clusters

IDS = ("a", 'b,"c"', "d")


def _tables():
    labels = np.array([[0, 1, 7], [1, 1, 7]])
    distances = np.array([[0.5, 0.25, 0.0], [1.0, 2.0, 0.0]])
    return [clusters.table("idt", IDS, labels, distances, np.array([True, True, False]))]


def test_a_table_survives_the_file(tmp_path):
    clusters.write(tmp_path / clusters.FILE, _tables())
    for source in (tmp_path, tmp_path / clusters.FILE):
        loaded = vcjax.load_clusters(source)
        for column, written in zip(loaded, _tables()[0], strict=True):
            np.testing.assert_array_equal(column, written)
    assert loaded.spaces == ["idt"]
    assert loaded.of("idt", run=1) == {"a": 1, 'b,"c"': 1, "d": clusters.NONE}


def test_rows_of_files_follow_the_rows_of_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "_BLOCK", 4)
    clusters.write(tmp_path / "a.csv", _tables())
    clusters.write(tmp_path / "b.csv", _tables(), [tmp_path / "a.csv"])
    clusters.write(tmp_path / "c.csv", _tables() * 2)
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "c.csv").read_bytes()
    (tmp_path / "a.csv").write_text("video_id,cluster\na,1\n")
    with pytest.raises(ValueError, match="not a table of clusters: its columns are"):
        clusters.write(tmp_path / "b.csv", [], [tmp_path / "a.csv"])


def test_a_video_without_a_vector_has_no_distance(tmp_path):
    clusters.write(tmp_path / "c.csv", _tables())
    with (tmp_path / "c.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "video_id": "a", "space": "idt", "run": "0", "cluster": "0", "distance": "0.5",
    }  # fmt: skip
    assert (rows[2]["cluster"], rows[2]["distance"]) == ("-1", "")


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no clusters at {tmp_path}/clusters.csv"):
        vcjax.load_clusters(tmp_path)
    (tmp_path / clusters.FILE).write_text("video_id,cluster\na,1\n")
    with pytest.raises(ValueError, match="not a table of clusters: its columns are"):
        vcjax.load_clusters(tmp_path)
    with pytest.raises(KeyError, match="no clusters of run 0 in 'la'; spaces are"):
        _tables()[0].of("la")
