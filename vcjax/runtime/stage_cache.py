"""Stages run in order, each in its folder; what is complete for the same settings is skipped.

A stage's fingerprint hashes its settings and the digests of the stages it takes from, so a change
redoes what depends on it and nothing else. Its recipe is the same without what says which videos
there are: where that alone changed, what is known of single videos outlives it. `STAGE/stage.json`
records both, with checksums of the files that the stage left: what is damaged since is made again.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vcjax.runtime import checksums, hosts, lock

log = logging.getLogger(__name__)

_RECORD, _PREVIOUS = "stage.json", "stage.previous.json"


class StageError(ValueError):
    """A stage cannot run; the message says what to do."""


class Stage(NamedTuple):
    """One stage: what it depends on, and how it is run.

    `run(directory)` does the work, resuming from what it finds there, and may return a digest of
    its result; without one the fingerprint stands for it.
    """

    name: str
    settings: dict[str, Any]
    inputs: tuple[str, ...]
    run: Callable[[Path], str | None]
    together: bool = False  # every process of the run takes part; else the first alone
    keeps: bool = False  # its folder survives a change of settings: the stage checks each file
    which_videos: tuple[str, ...] = ()  # settings that only say which videos there are
    by_video: tuple[str, ...] = ()  # what in its folder knows videos by id, and outlives others
    files: str = "**/*"  # in its folder, that have checksums; "": none, it has its own
    beside: tuple[str, ...] = ()  # files in the workdir itself that it writes


def run(stages: Sequence[Stage], workdir: Path, *, only: Sequence[str] = ()) -> None:
    """Runs `stages` (all, or those named in `only`) in order, each into `workdir/<name>`.

    Raises lock.LockError where another run has `workdir`.
    """
    names = [stage.name for stage in stages]
    if unknown := sorted(set(only) - set(names)):
        raise StageError(f"no stage {unknown[0]!r} in this config; it has {', '.join(names)}")
    with _locked(workdir):
        for stage in stages:
            if not only or stage.name in only:
                _run(stage, workdir)


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    """The lock of `workdir`, held by the first process for all of the run."""
    with contextlib.ExitStack() as stack:
        hosts.on_first(lambda: stack.enter_context(lock.held(workdir)))
        yield


def seconds(workdir: Path, names: Sequence[str]) -> dict[str, float]:
    """Seconds that each complete stage of `names` took."""
    records = {name: read(workdir / name) for name in names}
    return {name: r["seconds"] for name, r in records.items() if r.get("complete")}


def read(directory: Path) -> dict[str, Any]:
    """The record of the stage in `directory`, {} where it has not begun.

    The one before it where it is damaged. Raises StageError where that is, too.
    """
    problems = []
    for path in (directory / _RECORD, directory / _PREVIOUS):
        try:
            return checksums.read_json(path)
        except FileNotFoundError:
            continue
        except checksums.DamagedError as error:
            log.warning("%s; the record before it is used", error)
            problems.append(path)
    if problems:
        raise StageError(f"{problems[0]}: damaged; remove {directory} to do the stage anew")
    return {}


def damaged(workdir: Path, record: dict[str, Any]) -> list[Path]:
    """The files of a stage with this record that are missing, or not as the stage left them.

    A checkpoint that is removed, as one may to save space, is not among them.
    """
    files = record.get("files", {})
    missing = [p for p in checksums.missing(files, workdir) if "checkpoints" not in p.parts]
    return missing + checksums.damaged(files, workdir)


def check(directory: Path) -> None:
    """Raises StageError if files that the complete stage in `directory` left are damaged."""
    if bad := damaged(directory.parent, read(directory)):
        raise StageError(
            f"{_some(bad)} is missing or damaged; run the stage {directory.name} again"
        )


def reopen(workdir: Path, name: str) -> None:
    """Lets the stage `name`, which checks each file, run again although it is complete."""
    record = read(workdir / name)
    if record.get("complete"):
        _write(workdir / name, record | {"complete": False})


def _run(stage: Stage, workdir: Path) -> None:
    if not stage.together:
        hosts.on_first(lambda: _finish(stage, workdir) if _begin(stage, workdir) else None)
    elif hosts.on_first(lambda: _begin(stage, workdir)):
        if hosts.is_first():
            _finish(stage, workdir)
        else:
            stage.run(workdir / stage.name)


def _begin(stage: Stage, workdir: Path) -> bool:
    """Whether the stage has to run, its folder then made ready for it."""
    directory = workdir / stage.name
    taken = {name: _complete(stage.name, workdir, name) for name in stage.inputs}
    inputs = {name: record["digest"] for name, record in taken.items()}
    fingerprint = _hash({"settings": stage.settings, "inputs": inputs})
    recipe = _recipe(stage, taken)
    record = read(directory)
    if record.get("fingerprint") == fingerprint and record.get("complete"):
        bad = damaged(workdir, record)
        if not bad:
            log.info("%s: complete, skipped", stage.name)
            return False
        log.warning("%s: %s: missing or damaged; made again", stage.name, _some(bad))
        for path in bad:
            if "checkpoints" not in path.parts:  # of which an older one may be sound
                path.unlink(missing_ok=True)
    for name, of_input in taken.items():
        if bad := damaged(workdir, of_input):
            raise StageError(
                f"{stage.name} needs {name}, of which {_some(bad)} is missing or damaged; "
                f"run {name} again, which makes it anew"
            )
    if record and record.get("fingerprint") != fingerprint:
        changed = ", ".join(_changed(record, stage.settings, inputs))
        kept = stage.by_video and record.get("recipe") == recipe
        if kept and not damaged(workdir, record):
            log.info("%s: brought up to date, because %s changed", stage.name, changed)
        else:
            log.info("%s: redone, because %s changed", stage.name, changed)
            _clear(stage, directory)
        record = {}
    log.info("%s: %s", stage.name, "continued" if record else "started")
    directory.mkdir(parents=True, exist_ok=True)
    record = {
        "fingerprint": fingerprint,
        "recipe": recipe,
        "settings": stage.settings,
        "inputs": inputs,
        "complete": False,
        "seconds": record.get("seconds", 0.0),
    }
    _write(directory, record)
    return True


def _clear(stage: Stage, directory: Path) -> None:
    if not stage.keeps:
        shutil.rmtree(directory)
        return
    for name in stage.by_video:
        (directory / name).unlink(missing_ok=True)


def _recipe(stage: Stage, taken: dict[str, dict[str, Any]]) -> str:
    chosen = {k: v for k, v in stage.settings.items() if k not in stage.which_videos}
    inputs = {name: record.get("recipe") for name, record in taken.items()}
    return _hash({"settings": chosen, "inputs": inputs})


def _finish(stage: Stage, workdir: Path) -> None:
    """Runs a stage that has begun, and records how that went."""
    directory = workdir / stage.name
    record = read(directory)
    begin = time.monotonic()
    before = record["seconds"]
    try:
        digest = stage.run(directory)
        files = checksums.of_files(_left(stage, workdir), workdir)
        record |= {"digest": digest or record["fingerprint"], "files": files, "complete": True}
    except BaseException:
        with contextlib.suppress(OSError):  # of a full disk, say: not what is told
            _write(directory, record | {"seconds": _seconds(before, begin)})
        raise
    _write(directory, record | {"seconds": _seconds(before, begin)})
    log.info("%s: done in %.0f s", stage.name, _seconds(before, begin))


def _seconds(before: float, begin: float) -> float:
    return round(before + time.monotonic() - begin, 2)


def _left(stage: Stage, workdir: Path) -> list[Path]:
    """The files that the stage left and that have no checksums of their own."""
    found = (workdir / stage.name).glob(stage.files) if stage.files else []
    own = [p for p in found if p.is_file() and p.name not in (_RECORD, _PREVIOUS)]
    return own + [workdir / name for name in stage.beside]


def _complete(name: str, workdir: Path, needed: str) -> dict[str, Any]:
    """The record of a stage that the stage `name` takes from."""
    record = read(workdir / needed)
    if not record.get("complete"):
        raise StageError(f"{name} needs {needed}, which is not complete; add it to --stages")
    return record


def _changed(record: dict[str, Any], settings: dict[str, Any], inputs: dict[str, str]) -> list[str]:
    old, new = record.get("settings", {}), json.loads(json.dumps(settings))
    keys = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    taken = record.get("inputs", {})
    stages = sorted(k for k in taken.keys() | inputs.keys() if taken.get(k) != inputs.get(k))
    return keys + [f"stage {k}" for k in stages]


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _some(paths: Sequence[Path]) -> str:
    return f"{paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


def _write(directory: Path, record: dict[str, Any]) -> None:
    """Records it; the record before it stays beside it."""
    with contextlib.suppress(FileNotFoundError, checksums.DamagedError):
        checksums.read_json(directory / _RECORD)
        os.replace(directory / _RECORD, directory / _PREVIOUS)
    checksums.write_json(directory / _RECORD, record)
