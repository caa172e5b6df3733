"""Trains for a given time, stopped every few minutes and started again; memory has to stay flat.

python tests/faults/soak.py --minutes 120 --restart_minutes 3

Each session of training is a process of its own, which is asked to stop. Its resident memory and
its open files are looked at every second; a line a restart says what they were. The exit code is 1
where they grow: within a session after its first third, or from session to session.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
SETTINGS = [
    "--config=la_idt.py:smoke",
    "--config.clip.side=16",
    "--config.clip.num_frames=4",
    "--config.model.width=4",
    "--config.num_workers=1",
    "--config.epochs_scale=10000",  # does not end within hours
    "--config.ir.checkpoint_steps=50",
    "--config.ir.validate_epochs=20",
    "--config.stages=('manifest','ingest','ir')",
]
WARM_UP = 150  # steps until it has validated: then all is compiled, and XLA's memory for it free
MAX_GROWTH = 1.05  # of the median memory: of the end over the middle, of the last over the second
PAGE = os.sysconf("SC_PAGE_SIZE")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--restart_minutes", type=float, default=3)
    parser.add_argument("--workdir", type=Path)
    options = parser.parse_args()
    workdir = options.workdir or Path(tempfile.mkdtemp(prefix="soak-")) / "run"
    end = time.monotonic() + 60 * options.minutes
    sessions = []
    while time.monotonic() < end:
        sessions.append(session(workdir, min(end, time.monotonic() + 60 * options.restart_minutes)))
        print(told(len(sessions), sessions[-1], workdir), flush=True)
    problems = growth(sessions)
    print("\n".join(problems) or f"flat over {len(sessions)} sessions")
    sys.exit(int(bool(problems)))


def session(workdir, until):
    """Memory in MB and number of open files of the training process, once a second [t, 2]."""
    command = [sys.executable, "-m", "vcjax.main", *SETTINGS, f"--workdir={workdir}"]
    workdir.parent.mkdir(parents=True, exist_ok=True)
    samples = []
    with (workdir.parent / "soak.log").open("a") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        first = last_step(workdir)
        while time.monotonic() < until:
            time.sleep(1)
            if process.poll() is not None:
                sys.exit(f"training ended with {process.returncode}; see {workdir.parent}/soak.log")
            if last_step(workdir) > first + WARM_UP:
                samples.append(measured(process.pid))
        process.send_signal(signal.SIGTERM)
        process.wait()
    return np.array(samples).reshape(-1, 2)


def measured(pid):
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * PAGE / 1e6, len(os.listdir(f"/proc/{pid}/fd"))


def last_step(workdir):
    """The last step of which there is a metric, 0 before."""
    try:
        with (workdir / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().decode(errors="replace").splitlines()
        return json.loads(lines[-1])["step"]
    except (FileNotFoundError, IndexError, ValueError, KeyError):
        return 0


def told(number, samples, workdir):
    if not len(samples):
        return f"session {number}: not long enough to train"
    begin, late = thirds(samples)
    return (
        f"session {number}: step {last_step(workdir)}, memory {begin[0]:.0f} MB in its second "
        f"third and {late[0]:.0f} MB in its last, open files {begin[1]:.0f} and {late[1]:.0f}"
    )


def thirds(samples):
    """Medians of the second third and of the last."""
    third = len(samples) // 3
    return np.median(samples[third : 2 * third + 1], axis=0), np.median(
        samples[-third - 1 :], axis=0
    )


def growth(sessions):
    """What grew, one line each."""
    long_enough = [samples for samples in sessions if len(samples) >= 9]
    found = []
    for number, samples in enumerate(long_enough, start=1):
        begin, late = thirds(samples)
        if late[0] > MAX_GROWTH * begin[0] or late[1] > begin[1] + 2:
            found.append(f"session {number} grew: {begin} to {late} (MB, open files)")
    if len(long_enough) > 2:
        second, last = (thirds(long_enough[i])[1] for i in (1, -1))
        if last[0] > MAX_GROWTH * second[0] or last[1] > second[1] + 2:
            found.append(f"from the second session to the last: {second} to {last}")
    return found


if __name__ == "__main__":
    main()
