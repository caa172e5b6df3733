"""Errors of a video are results of a pool; errors of the program end it."""

from operator import attrgetter

import pytest

from vcjax.data.decoder_crashes import _Job
from vcjax.runtime import worker_pool

JOBS = [_Job(row, f"video {row}", f"/missing/{row}.mp4") for row in range(3)]


def read(job):
    raise ValueError(f"{job.path}: damaged")


@pytest.mark.parametrize("on_error", ["error", "skip"])
@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("work, error", [(attrgetter("gone"), AttributeError), (abs, TypeError)])
def test_an_error_of_the_program_is_raised_as_it_is(work, error, num_workers, on_error):
    with pytest.raises(error) as raised:
        worker_pool.run(JOBS, work, desc="read", num_workers=num_workers, on_error=on_error)
    (note,) = raised.value.__notes__
    assert "at video 0" in note or "at video 1" in note
    assert "The video is not at fault" in note


def test_a_missing_module_is_not_the_problem_of_a_video():
    def work(job):
        import vcjax_does_not_exist  # noqa: F401

    with pytest.raises(ImportError):
        worker_pool.attempt(work, JOBS[0])


def test_an_error_of_a_video_is_its_problem_alone():
    assert worker_pool.attempt(read, JOBS[1]).problem == "/missing/1.mp4: damaged"
    assert worker_pool.attempt(lambda job: 7, JOBS[2]) == (JOBS[2], 7, "")
