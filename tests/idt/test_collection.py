import logging
import os
from pathlib import Path

import numpy as np
import pytest

from vcjax.idt import collection, storage
from vcjax.runtime import worker_pool


def run(videos, directory, **options):
    defaults = {"matcher": "flow", "people": None, "num_workers": 1, "on_error": "error"}
    return collection.extract_collection(videos, directory, **{**defaults, **options})


def times(directory):
    return {path: path.stat().st_mtime_ns for path in directory.iterdir()}


def test_counts_are_those_of_the_files_and_a_second_run_does_nothing(videos, tmp_path):
    counts = run(videos, tmp_path / "out")
    assert list(counts) == list(videos) and all(counts.values())
    for video_id, count in counts.items():
        assert storage.read(storage.path_of(tmp_path / "out", video_id)).num_rows == count
    before = times(tmp_path / "out")
    assert run(videos, tmp_path / "out") == counts
    assert times(tmp_path / "out") == before


def test_processes_give_the_same_files(videos, tmp_path):
    run(videos, tmp_path / "one")
    run(videos, tmp_path / "two", num_workers=2)
    for path in (tmp_path / "one").iterdir():
        np.testing.assert_array_equal(
            storage.read(path).features, storage.read(tmp_path / "two" / path.name).features
        )


def test_what_is_damaged_or_from_another_file_is_extracted_again(videos, tmp_path, caplog):
    directory = tmp_path / "out"
    counts = run(videos, directory)
    damaged = storage.path_of(directory, "a/one")
    damaged.write_bytes(damaged.read_bytes()[:500])
    os.utime(videos["two"], ns=(1, 1))
    before = times(directory)
    assert run(videos, directory) == counts
    assert all(time != before[path] for path, time in times(directory).items())
    assert "replacing trajectories that cannot be read" in caplog.text


def test_every_video_that_fails_is_named_after_the_others_are_done(videos, tmp_path):
    bad = tmp_path / "bad.avi"
    bad.write_bytes(b"no video")
    with pytest.raises(ValueError, match="(?s)2 videos.*bad.*missing"):
        run({"bad": str(bad), "missing": str(tmp_path / "no.avi"), **videos}, tmp_path / "out")
    assert storage.read(storage.path_of(tmp_path / "out", "two")).num_rows


def test_skipped_videos_have_an_empty_file_and_are_tried_again(videos, tmp_path, caplog):
    late = tmp_path / "late.avi"
    one_late = {"late": str(late), "two": videos["two"]}
    with caplog.at_level(logging.WARNING):
        assert run(one_late, tmp_path / "out", on_error="skip")["late"] == 0
    assert "late" in caplog.text
    assert storage.read(storage.path_of(tmp_path / "out", "late")).num_rows == 0
    late.write_bytes(Path(videos["a/one"]).read_bytes())
    assert run(one_late, tmp_path / "out", on_error="skip")["late"] > 0


def test_people_without_a_box_file_are_an_error_and_boxes_count_as_source(videos, tmp_path):
    people = tmp_path / "people"
    people.mkdir()
    only = {"two": videos["two"]}
    with pytest.raises(ValueError, match=r"two\.bb"):
        run(only, tmp_path / "out", people=people)
    (people / "two.bb").write_text("".join(f"{i}\n" for i in range(18)))
    counts = run(only, tmp_path / "out", people=people)
    before = times(tmp_path / "out")
    (people / "two.bb").write_text("".join(f"{i} 0 0 159 127 1\n" for i in range(18)))
    assert run(only, tmp_path / "out", people=people) != counts
    assert times(tmp_path / "out") != before


class Bomb:
    """A path that kills the process which unpickles it."""

    def is_file(self):
        return False

    def __reduce__(self):
        return os._exit, (3,)


def test_a_video_that_kills_its_process_is_named_and_the_others_are_done(videos, tmp_path):
    jobs = [
        collection.Job(video_id, path, None, "flow", storage.path_of(tmp_path, video_id))
        for video_id, path in [("bomb", Bomb()), *((k, tmp_path / v) for k, v in videos.items())]
    ]
    run = worker_pool.run_all(jobs, collection.extract_one, 2)
    results = {result.job.video_id: result for result in run}
    assert "died" in results["bomb"].problem
    assert results["two"].num_found and results["a/one"].num_found


def test_on_error_is_one_of_two(videos, tmp_path):
    with pytest.raises(ValueError, match="on_error is 'ignore'"):
        run(videos, tmp_path / "out", on_error="ignore")
