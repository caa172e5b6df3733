import pytest

pytest.importorskip("apache_beam")

from vcjax.idt import __main__ as command
from vcjax.idt import beam, collection, storage

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Beam's own
]
ONE_PROCESS = ["--runner=DirectRunner", "--direct_running_mode=in_memory"]


def files(directory):
    return {path.name: path.read_bytes() for path in directory.glob("*.parquet")}


def test_files_are_those_of_the_local_run_bit_for_bit(videos, write_gray, moving_patch, tmp_path):
    videos["three"] = str(write_gray("three", moving_patch[4:22, :, ::-1]))
    counters = beam.run(
        videos, tmp_path / "beam", matcher="flow", people=None, num_retries=0, options=ONE_PROCESS
    )
    counts = collection.extract_collection(
        videos, tmp_path / "idt", matcher="flow", people=None, num_workers=1, on_error="error"
    )
    assert files(tmp_path / "beam") == files(tmp_path / "idt")
    assert counters["videos"] == 3 and counters["trajectories"] == sum(counts.values())
    assert (tmp_path / "beam" / "failed.tsv").read_text() == "video_id\tpath\treason\n"


def test_videos_that_fail_are_tried_again_and_listed(videos, tmp_path):
    bad = tmp_path / "bad.avi"
    bad.write_bytes(b"no video")
    one_bad = {"bad": str(bad), "two": videos["two"]}
    counters = beam.run(
        one_bad,
        tmp_path / "beam",
        matcher="flow",
        people=None,
        num_retries=2,
        options=ONE_PROCESS,
        wait=0.0,
    )
    assert counters["failed"] == 1 and counters["retries"] == 2 and counters["videos"] == 1
    header, line = (tmp_path / "beam" / "failed.tsv").read_text().splitlines()
    video_id, path, reason = line.split("\t")
    assert (video_id, path) == ("bad", str(bad)) and "bad.avi" in reason
    assert storage.read(storage.path_of(tmp_path / "beam", "bad")).num_rows == 0


def test_the_command_passes_options_on(videos, tmp_path, capsys):
    command.main(
        ["beam", "--manifest", str(tmp_path), "--out", str(tmp_path / "beam"), *ONE_PROCESS]
    )
    assert "trajectories of 2 videos" in capsys.readouterr().out
