import os
import stat
from pathlib import Path

from vcjax.runtime import numba_cache

READ_ONLY = Path("/proc/no_such_package")  # not writable for any user


def test_a_private_folder_replaces_a_home_and_a_package_that_are_not_writable(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/proc/no_such_home")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    numba_cache.ensure(READ_ONLY)
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    assert folder.parent == tmp_path and stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/proc/no_such_home")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    planted = tmp_path / f"vcjax-numba-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    numba_cache.ensure(READ_ONLY)
    assert Path(os.environ["NUMBA_CACHE_DIR"]) not in (planted, Path())


def test_a_writable_home_is_left_to_numba(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    numba_cache.ensure(READ_ONLY)
    assert not os.environ["NUMBA_CACHE_DIR"]
