"""One run a folder: a lock that the kernel takes back when the process that holds it ends.

A record lock of POSIX, not a library's lock file: it never outlives its process, however that
ends, its workers do not inherit it, and NFS passes it on to other hosts.
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

NAME = "run.lock"  # the file stays; that it is there means nothing


class LockError(ValueError):
    """Another run has the folder; the message names it."""


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Keeps other runs out of `workdir` while it is open. Raises LockError where one has it.

    Where the file system knows no locks, or only this host's (buckets), it cannot.
    """
    with (workdir / NAME).open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # either, says POSIX
            raise LockError(f"{workdir} is in use by {_holder(workdir)}") from None
        except OSError as error:
            log.warning("%s cannot be locked (%s): start no second run in it", workdir, error)
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
        told = json.loads((workdir / NAME).read_text())
        who = f"process {told['pid']} on {told['host']} since {told['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just begun
        who = "another run"
    return f"{who}; wait for it, stop it, or take another --workdir"
