import multiprocessing
import os
import time

from vcjax.runtime import atomic


def write_slowly(path):
    with atomic.atomic_write(path) as file:
        file.write(b"half")
        file.flush()
        (path.parent / "begun").touch()
        time.sleep(60)


def test_what_the_dead_left_is_removed_and_not_what_others_write(tmp_path):
    path = tmp_path / "v[1].npz"
    process = multiprocessing.get_context("forkserver").Process(
        target=write_slowly, args=(path,), daemon=True
    )
    process.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    with atomic.atomic_write(path) as file:
        file.write(b"first")
    assert sorted(os.listdir(tmp_path)) == ["begun", path.name, f"{path.name}.{process.pid}.tmp"]
    process.kill()
    process.join()
    with atomic.atomic_write(path) as file:
        file.write(b"second")
    assert sorted(os.listdir(tmp_path)) == ["begun", path.name]
    assert path.read_bytes() == b"second"
