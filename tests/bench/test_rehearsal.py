import contextlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from vcjax.bench import rehearsal


@pytest.mark.slow
def test_all_stages_complete_on_stand_ins_and_each_has_a_row(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # one device in the process of the stages
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")  # most of the time is compilation
    # one process for all stages, since each would import the libraries and compile on its own
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        shared = contextlib.nullcontext(pool)
        monkeypatch.setattr(rehearsal, "ProcessPoolExecutor", lambda *_: shared)
        rehearsal.main(["--num_videos=60", f"--folder={tmp_path}"])
    header, rule, *lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (header, *lines)]
    columns, *rows = cells
    assert columns == list(rehearsal.COLUMNS)
    assert rule.count("---") == len(columns)
    assert [row[:2] for row in rows] == [
        ["60", stage] for stage in ("collection", "check", *rehearsal.STAGES)
    ]
    for _, _, *times, memory, _, _ in rows:
        assert all(float(time) >= 0 for time in times)
        assert float(memory.replace(",", "")) > 50  # MB, of an interpreter with NumPy
    assert not list(tmp_path.iterdir())


def test_clusters_are_in_proportion_to_the_videos(tmp_path):
    assert rehearsal.config_for(235_000, 6000, tmp_path).clusters.num_clusters == 6000
    assert rehearsal.config_for(2350, 6000, tmp_path).clusters.num_clusters == 60
