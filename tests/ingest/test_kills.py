"""An ingest that is killed at random moments, VCJAX_KILLS times (default 3)."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

NUM_KILLS = int(os.environ.get("VCJAX_KILLS", "3"))
FLAGS = [
    "--config=la_idt.py:folder", "--config.fisher.num_components=2", "--config.fisher.num_videos=4",
    "--config.fisher.descriptors_per_video=50", "--num_workers=2",
]  # fmt: skip


def start(videos, root, log):
    command = [sys.executable, "-m", "vcjax.ingest", str(videos), str(root), *FLAGS]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    with log.open("a") as file:
        return subprocess.Popen(
            command, cwd=Path(__file__).parents[2], env=environment, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip


def content(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_killed_and_started_again_it_ends_as_an_undisturbed_one(videos, tmp_path):
    folder, log = tmp_path / "videos", tmp_path / "log"
    assert start(folder, tmp_path / "undisturbed", log).wait() == 0, log.read_text()[-3000:]
    begin = time.monotonic()
    assert start(folder, tmp_path / "again", log).wait() == 0
    duration = time.monotonic() - begin
    generator, kills = random.Random(time.time_ns()), 0
    while kills < NUM_KILLS:
        process = start(folder, tmp_path / "killed", log)
        try:
            process.wait(generator.uniform(0.1, 1) * duration)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            done = len(list((tmp_path / "killed").glob("staging/*/about.json")))
            print(f"kill {kills}: {done} videos staged", flush=True)
            continue
        assert process.returncode == 0, log.read_text()[-3000:]
        assert content(tmp_path / "killed") == content(tmp_path / "undisturbed")
        (tmp_path / "killed").rename(tmp_path / f"complete{kills}")
    assert start(folder, tmp_path / "killed", log).wait() == 0, log.read_text()[-3000:]
    assert content(tmp_path / "killed") == content(tmp_path / "undisturbed")
