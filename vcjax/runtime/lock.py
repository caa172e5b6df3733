"""A lock that admits one run per folder and that the kernel releases when its process ends.

It is a POSIX record lock rather than a lock file of a library: it never outlives its process, not
even a killed one, worker processes do not inherit it, and NFS enforces it across hosts.
"""

import contextlib
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

log = logging.getLogger(__name__)

NAME = "run.lock"  # the file is never removed; only the kernel's lock on it counts


class LockError(ValueError):
    """Another run, named in the message, holds the lock of the folder."""


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Hold the lock of `workdir` while the context is open.

    A file system without locks, or with locks of one host only (mounted buckets), gives no
    protection; if it refuses the lock, a warning is logged.

    Raises:
      LockError: if another run holds the lock.
    """
    with (workdir / NAME).open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX allows either error
            raise LockError(f"{workdir} is in use by {_holder(workdir)}") from None
        except OSError as error:
            log.warning("%s cannot be locked (%s): do not start a second run in it", workdir, error)
        file.truncate(0)
        json.dump(_me(), file)
        file.flush()
        yield
        file.truncate(0)


def _me() -> dict[str, str | int]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().isoformat(" ", "seconds"),
    }


def _holder(workdir: Path) -> str:
    try:
        holder = json.loads((workdir / NAME).read_text("utf-8"))
        who = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # the other run has not written it yet
        who = "another run"
    return f"{who}; wait for that run, stop it, or use another --workdir"
