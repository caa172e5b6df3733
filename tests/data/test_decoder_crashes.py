"""A file whose decoding kills the process: a signal, sent where it is opened, stands in for it."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from vcjax.data import clips, decoder_crashes, manifest, verify

BAD = 4

# Python runs it first, in worker processes as well.
SITE = """
import signal
from vcjax.data import readers

opened = readers._open

def killed(path):
    if path.endswith("kills.mp4"):
        signal.raise_signal(signal.SIGSEGV)  # of this thread, as a fault is
    return opened(path)

readers._open = killed
"""

READ = """
import sys
from pathlib import Path
import numpy as np
from vcjax.data import clips, decoder_crashes, manifest

def dataset(excluded, marks):
    return clips.training_clips(
        videos, num_frames=4, side=24, scales=(1.0, 0.7), batch_size=3, num_epochs=4, seed=0,
        excluded=excluded, marks=marks,
    )

if __name__ == "__main__":
    source, workdir, num_workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    videos = manifest.load(source)
    found = list(decoder_crashes.skip_crashing_videos(
        dataset, videos, listed=workdir / "excluded_videos.tsv", marks=workdir / "reading",
        num_workers=num_workers, num_threads=1,
    ))
    np.savez(
        workdir / "found.npz", **{k: np.stack([batch[k] for batch in found]) for k in found[0]}
    )
"""

VERIFY = """
import sys
from vcjax.data import manifest, verify

if __name__ == "__main__":
    videos = manifest.load(sys.argv[1])
    kept, problems = verify.verify(videos, on_error="skip", decode=True, num_workers=2)
    print(len(kept), *problems)
"""


@pytest.fixture(scope="module")
def videos(write_video, tmp_path_factory):
    """Seven small videos, one of which is called `kills`, and their verified table."""
    folder = tmp_path_factory.mktemp("crashes")
    for i in range(7):
        name = "kills" if i == BAD else f"fine{i}"
        write_video(folder / f"{i}" / f"{name}.mp4", 9, phase=i)
    verified, _ = verify.verify(
        manifest.read(folder), on_error="error", decode=False, num_workers=1
    )
    manifest.save(verified, folder / "manifest.tsv")
    (folder / "sitecustomize.py").write_text(SITE)
    return folder, verified


def run(folder, script, *arguments):
    (folder / "script.py").write_text(script)
    places = [str(folder), os.getcwd(), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, str(folder / "script.py"), str(folder / "manifest.tsv"), *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def excluding(videos):
    """What is read where the file was known from the start."""
    found = clips.training_clips(
        videos,
        num_frames=4,
        side=24,
        scales=(1.0, 0.7),
        batch_size=3,
        num_epochs=4,
        seed=0,
        excluded=frozenset({BAD}),
    )
    return [found[step] for step in range(len(found))]


def assert_read(workdir, videos):
    with np.load(workdir / "found.npz") as found:
        for name in found:
            np.testing.assert_array_equal(found[name], [b[name] for b in excluding(videos)])
        assert set(found["bad"].flat) == {-1, BAD} and BAD not in found["index"]
    lines = (workdir / "excluded_videos.tsv").read_text().splitlines()
    assert [line.split("\t")[:2] for line in lines[1:]] == [
        [videos.video_ids[BAD], videos.paths[BAD]]
    ]


def test_reading_goes_on_at_the_same_step_without_the_file_that_kills_a_worker(videos, tmp_path):
    folder, verified = videos
    result = run(folder, READ, str(tmp_path), "2")
    assert result.returncode == 0, result.stderr
    assert_read(tmp_path, verified)
    assert "kills.mp4 crashes the process that decodes it: excluded" in result.stderr


def test_a_program_that_died_itself_knows_the_file_the_next_time(videos, tmp_path):
    folder, verified = videos
    assert run(folder, READ, str(tmp_path), "0").returncode == -signal.SIGSEGV
    result = run(folder, READ, str(tmp_path), "0")
    assert result.returncode == 0, result.stderr
    assert_read(tmp_path, verified)


def test_a_file_is_read_again_once_it_has_changed(videos, tmp_path):
    _, verified = videos
    listed = tmp_path / "excluded_videos.tsv"
    decoder_crashes._exclude({BAD}, verified, listed)
    assert decoder_crashes._excluded(listed, verified) == {BAD}
    size, time = decoder_crashes._stamp(verified.paths[BAD])
    listed.write_text(listed.read_text().replace(time, str(int(time) + 1)))
    assert decoder_crashes._excluded(listed, verified) == set()


def test_verifying_lists_the_file_that_kills_its_process(videos):
    folder, verified = videos
    result = run(folder, VERIFY)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("6 ")
    assert verified.video_ids[BAD] in result.stdout and "process that read it died" in result.stdout
