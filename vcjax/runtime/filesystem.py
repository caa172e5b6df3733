"""Files in object stores: `gs://`, `s3://`, or whatever else fsspec knows.

What touches the network is tried again, each time after a longer pause. Needs the extra `remote`.
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

from vcjax.runtime import atomic

T = TypeVar("T")

_ATTEMPTS = 6
_LONGEST_PAUSE = 60  # seconds
_CACHE = "VCJAX_CACHE"  # environment variable: folder of local copies
_NEVER_MENDED = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is an address such as `gs://bucket/folder`."""
    return not isinstance(path, Path) and bool(
        re.match(r"(?!file:)[a-z][a-z0-9+.-]+://", str(path))
    )


def path_of(path: str | os.PathLike[str]) -> Any:
    """The path or address as a pathlib.Path, or a UPath, which behaves like one."""
    text = str(path)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    if not is_remote(path):
        return Path(path)
    try:
        from upath import UPath
    except ImportError as error:
        raise ValueError(f"{text}: install vcjax[remote] to read such addresses") from error
    return UPath(text)


def absolute(path: str) -> str:
    """The path without dots, from the root; an address stays."""
    return path if is_remote(path) else os.path.abspath(path_of(path))


def patiently(work: Callable[[], T]) -> T:
    """What `work` returns, which is called again after errors that time may mend."""
    import tenacity

    return tenacity.Retrying(
        wait=tenacity.wait_random_exponential(max=_LONGEST_PAUSE),
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        retry=tenacity.retry_if_exception(
            lambda error: isinstance(error, OSError) and not isinstance(error, _NEVER_MENDED)
        ),
        reraise=True,
    )(work)


def files(folder: Any) -> list[Any]:
    """All files below the remote `folder`, sorted."""
    found = patiently(lambda: folder.fs.find(folder.path))
    start = len(folder.path.rstrip("/")) + 1
    return [folder / str(name)[start:] for name in sorted(map(str, found))]


def size_of(path: Any) -> int:
    """Bytes of a file, of which there are none where it is not there."""
    try:
        return patiently(lambda: path.stat().st_size) if is_remote(path) else path.stat().st_size
    except FileNotFoundError:
        return -1


def stamp(path: str) -> tuple[int, str]:
    """Size of a file and what else tells another content of it. Raises FileNotFoundError."""
    if not is_remote(path):
        status = os.stat(path_of(path))
        return status.st_size, str(status.st_mtime_ns)
    place = path_of(path)
    information = patiently(lambda: place.fs.info(place.path))
    named = ("etag", "ETag", "md5Hash", "mtime", "LastModified", "updated", "created")
    version = next((str(information[name]) for name in named if information.get(name)), "")
    return int(information["size"]), version


@contextlib.contextmanager
def writing(target: Any) -> Iterator[Path]:
    """A local file to write, which is put to its place when the block ends without an error."""
    if not is_remote(target):
        with atomic.replacing(target) as file:
            yield Path(file.name)
        return
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "written"
        yield written
        patiently(lambda: target.fs.put_file(str(written), target.path))


def write_text(target: Any, text: str) -> None:
    """Puts `text`, as UTF-8, into the place of `target`, whole or not at all."""
    if is_remote(target):
        with writing(target) as temporary:
            temporary.write_text(text, encoding="utf-8")
    else:
        atomic.write_text(target, text)


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """A file to open while the block runs: `path` itself, or a copy that is gone afterwards."""
    if not is_remote(path):
        yield path_of(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        _fetch(path, copy)
        yield copy


def cache_folder() -> Path:
    """The folder of copies, which is there."""
    folder = Path(os.environ.get(_CACHE) or Path.home() / ".cache" / "vcjax")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@functools.lru_cache(4096)
def cached(path: str) -> Path:
    """`path` itself, or a copy in the folder `VCJAX_CACHE` (by default ~/.cache/vcjax).

    It is fetched once for all processes, and again once it has changed.
    """
    if not is_remote(path):
        return path_of(path)
    folder = cache_folder()
    digest = hashlib.sha256(repr((path, stamp(path))).encode()).hexdigest()[:32]
    target = folder / f"{digest}{path_of(path).suffix}"
    with (folder / f"{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _fetch(path, target.with_suffix(".part"))
            os.replace(target.with_suffix(".part"), target)
    return target


def _fetch(path: str, target: Path) -> None:
    place = path_of(path)
    patiently(lambda: place.fs.get_file(place.path, str(target)))
