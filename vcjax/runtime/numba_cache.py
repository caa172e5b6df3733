"""A folder for compiled functions of numba where neither the package nor the home is writable.

numba refuses to compile a cached function without such a folder, as in a container that runs a
read-only installation under a user without a home.
"""

import os
import stat
import tempfile
from pathlib import Path


def ensure(package: Path) -> None:
    """Set NUMBA_CACHE_DIR, unless it is set or numba can write next to `package` or in the home.

    Call this before numba is imported. The folder belongs to this user alone, since numba loads
    code from it.
    """
    if os.environ.get("NUMBA_CACHE_DIR"):
        return
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if _is_writable(package / "__pycache__") or _is_writable(Path(home) / "numba"):
        return
    folder = Path(tempfile.gettempdir()) / f"vcjax-numba-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    owner = folder.lstat()
    if owner.st_uid != os.getuid() or stat.S_IMODE(owner.st_mode) != 0o700:
        folder = Path(tempfile.mkdtemp(prefix="vcjax-numba-"))
    os.environ["NUMBA_CACHE_DIR"] = str(folder)


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
