"""Errors of .npz files."""

import zipfile
import zlib

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
