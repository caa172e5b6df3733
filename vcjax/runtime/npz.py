"""Arrays kept in .npz files, whose members have checksums."""

import logging
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vcjax.runtime import atomic

log = logging.getLogger(__name__)

# Raised by numpy and zipfile on damaged bytes; RuntimeError: a flag that claims encryption.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def read(path: Path) -> dict[str, np.ndarray] | None:
    """Return the arrays of a file, or None if it is missing or, with a warning, damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return dict(stored)
    except FileNotFoundError:
        return None
    except (*UNREADABLE, AttributeError, TypeError) as error:  # a single array has no members
        log.warning("%s: damaged and not used: %s", path, error)
        return None


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays for `read`, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.atomic_write(path) as file:
        np.savez(file, allow_pickle=False, **arrays)
