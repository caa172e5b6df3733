"""Arrays in .npz files."""

import zipfile
import zlib

# What numpy and zipfile raise on damaged bytes; RuntimeError: flags that ask for a password.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
