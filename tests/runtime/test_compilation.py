"""The cache of compiled programs, the log line, and SIGTERM while the main thread is blocked."""

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from vcjax.runtime import compilation

PROGRAM = """
import contextlib, hashlib, logging, sys
import jax, jax.numpy as jnp
from vcjax.runtime import compilation, preemption

def block(iterations):
    print("blocked", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", iterations)

def compile():
    compilation._LONG = 0.0
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, force=True)

    @jax.jit
    def step(x):
        for _ in range(4000):  # compiled for seconds, longer than a busy machine delays the signal
            x = jnp.sin(x) @ x
        return x

    jax.config.update("jax_enable_compilation_cache", False)
    step(jnp.ones((9, 9)))

preemption._GRACE = preemption._POLL = 0.1
preemption.listen()
preemption.end_if_blocked()
compilation.report()
try:
    with preemption.defer_stop() if sys.argv[2:] else contextlib.nullcontext():
        exec(sys.argv[1])
        print("kept", flush=True)
except preemption.StopRequested:
    preemption.leave(preemption.exit_code())
"""


@pytest.mark.parametrize(
    ("action", "deferred", "first_line", "kept"),
    [
        ("block(2**31 - 1)", False, "blocked", False),
        ("compile()", True, "INFO:vcjax.runtime.compilation:compiling step", False),
        ("block(15 * 10**6)", True, "blocked", True),  # the end of a step is awaited
    ],
)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_a_process_that_is_blocked(action, deferred, first_line, kept, number, code):
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, action, *["deferred"] * deferred],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([root, *sys.path])},
    ) as process:
        try:
            while not (line := process.stdout.readline()).startswith(first_line):
                assert line, process.poll()
            process.send_signal(number)
            output = process.stdout.read()
            assert process.wait(60) == code, output
        finally:
            process.kill()
    assert ("kept" in output.splitlines()) == kept
    assert "stopped. To resume, run:" in output


@pytest.fixture
def cache():
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield lambda: jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", before)


def test_programs_are_kept_in_the_folder_unless_another_one_is_set(cache, tmp_path):
    compilation.cache_in(tmp_path / "a")
    assert cache() == str(tmp_path / "a")
    compilation.cache_in(tmp_path / "b")
    assert cache() == str(tmp_path / "a") and not (tmp_path / "b").exists()


def test_an_empty_value_disables_the_cache(cache, tmp_path):
    jax.config.update("jax_compilation_cache_dir", "")
    compilation.cache_in(tmp_path / "a")
    assert cache() == "" and not (tmp_path / "a").exists()


def test_a_folder_that_cannot_be_written_is_not_used(cache, tmp_path, caplog):
    (tmp_path / "file").touch()
    compilation.cache_in(tmp_path / "file" / "a")
    assert cache() is None and "compiled programs are not kept" in caplog.text


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc returns memory on demand")
def test_memory_that_a_long_compilation_freed_is_returned_to_the_system():
    def resident_megabytes():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 1e6

    blocks = [b"x" * 10_000 for _ in range(10_000)]
    del blocks[:-1]  # the last block keeps the freed ones before it in the process
    held = resident_megabytes()
    compilation._on_event(compilation._END, 0.01)
    assert resident_megabytes() > held - 50
    compilation._on_event(compilation._END, 60.0)
    assert resident_megabytes() < held - 50
