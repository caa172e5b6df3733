"""Files in object stores: `gs://`, `s3://` and any other protocol of fsspec.

Network operations are retried with exponential backoff. Requires the extra `remote`.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from vcjax.runtime import atomic, extras

T = TypeVar("T")

NO_PERMISSION = "permission denied; allow it with chmod, or run the command as the owner"
_ATTEMPTS = 6
_MAX_PAUSE = 60  # seconds
_CACHE = "VCJAX_CACHE"  # environment variable: folder of local copies
_PERMANENT_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Return True if `path` is a remote address such as `gs://bucket/folder`."""
    text = "" if isinstance(path, Path) else str(path)
    return "://" in text and bool(re.match(r"(?!file:)[a-z][a-z0-9+.-]+://", text))


def path_of(path: str | os.PathLike[str]) -> Any:
    """Return a `pathlib.Path`, or for a remote address a `UPath` with the same interface.

    A leading `~` of a local path is the home folder.

    Raises:
      ValueError: if the address is remote and the extra `remote` is not installed, or if there is
        no file system for such addresses.
    """
    text = str(path)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    if not is_remote(path):
        return Path(os.path.expanduser(path))
    try:
        import fsspec
        from upath import UPath
    except ImportError as error:
        raise extras.MissingExtraError(
            f"{text}: remote files need the extra remote: pip install 'vcjax[remote]'"
        ) from error
    try:
        remote = UPath(text)
        fsspec.get_filesystem_class(remote.protocol)
    except (ValueError, ImportError) as error:
        raise ValueError(f"{text}: {error}; copy the file to a local folder") from error
    return remote


def absolute(path: str) -> str:
    """Return a local path as a normalized absolute path, a remote address unchanged."""
    return path if is_remote(path) else os.path.abspath(path_of(path))


def retry(work: Callable[[], T]) -> T:
    """Return the result of `work`, calling it up to 6 times while it raises a transient OSError.

    Errors that repeat (a missing file, denied permission) are raised at once.
    """
    import tenacity

    return tenacity.Retrying(
        wait=tenacity.wait_random_exponential(max=_MAX_PAUSE),
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        retry=tenacity.retry_if_exception(
            lambda error: isinstance(error, OSError) and not isinstance(error, _PERMANENT_ERRORS)
        ),
        reraise=True,
    )(work)


def files(folder: Any) -> list[Any]:
    """Return all files below the remote `folder`, sorted."""
    names = retry(lambda: folder.fs.find(folder.path))
    start = len(folder.path.rstrip("/")) + 1
    return [folder / str(name)[start:] for name in sorted(map(str, names))]


def size_of(path: Any) -> int:
    """Return the size of a file in bytes, or -1 if it does not exist."""
    try:
        return retry(lambda: path.stat().st_size) if is_remote(path) else path.stat().st_size
    except FileNotFoundError:
        return -1


def file_version(path: str) -> tuple[int, str]:
    """Return the size of a file in bytes and a text that changes with its content.

    The text is the modification time in nanoseconds of a local file, and the entity tag, hash or
    time that the store reports for a remote one ("" if it reports none).

    Raises:
      FileNotFoundError: if there is no such file.
    """
    if not is_remote(path):
        status = os.stat(path_of(path))
        return status.st_size, str(status.st_mtime_ns)
    place = path_of(path)
    information = retry(lambda: place.fs.info(place.path))
    version_keys = ("etag", "ETag", "md5Hash", "mtime", "LastModified", "updated", "created")
    version = next((str(information[name]) for name in version_keys if information.get(name)), "")
    return int(information["size"]), version


@contextlib.contextmanager
def writing(target: Any) -> Iterator[Path]:
    """Yield a local file to write; move or upload it to `target` if the block raises no error."""
    if not is_remote(target):
        with atomic.atomic_write(target) as file:
            yield Path(file.name)
        return
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "written"
        yield written
        retry(lambda: target.fs.put_file(str(written), target.path))


def make_folder(folder: Any) -> None:
    """Create a local folder and its parents; object stores need no folders."""
    if not is_remote(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)


def write_text(target: Any, text: str) -> None:
    """Write `text` to `target` as UTF-8, either completely or not at all."""
    if is_remote(target):
        with writing(target) as temporary:
            temporary.write_text(text, encoding="utf-8")
    else:
        atomic.write_text(target, text)


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """Yield a local path: `path` itself, or a temporary copy that is deleted after the block."""
    if not is_remote(path):
        yield path_of(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        _fetch(path, copy)
        yield copy


def cache_folder() -> Path:
    """Return the folder of local copies of remote files; create it if necessary."""
    home = os.path.expanduser("~")  # unchanged if there is no home
    default = Path(tempfile.gettempdir() if home == "~" else f"{home}/.cache") / "vcjax"
    folder = Path(os.environ.get(_CACHE) or default)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"{folder}: cannot keep copies of remote files: {error.strerror}; set {_CACHE} to a "
            "folder that can be written"
        ) from error
    return folder


@functools.lru_cache(4096)
def cached(path: str) -> Path:
    """Return a local `path` itself, or a copy in `$VCJAX_CACHE` (default: ~/.cache/vcjax).

    A remote file is downloaded once for all processes, and again if it has changed since. Each
    process checks for changes on its first call for `path` only.
    """
    if not is_remote(path):
        return path_of(path)
    folder = cache_folder()
    digest = hashlib.sha256(repr((path, file_version(path))).encode()).hexdigest()[:32]
    target = folder / f"{digest}{path_of(path).suffix}"
    with (folder / f"{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _fetch(path, target.with_suffix(".part"))
            os.replace(target.with_suffix(".part"), target)
    return target


def _fetch(path: str, target: Path) -> None:
    place = path_of(path)
    retry(lambda: place.fs.get_file(place.path, str(target)))
