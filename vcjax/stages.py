"""Stages run in order, each in its folder; what is complete for the same settings is skipped.

A stage's fingerprint hashes its settings and the digests of the stages it takes from, so a change
redoes what depends on it and nothing else. Its recipe is the same without what says which videos
there are: where that alone changed, what is known of single videos outlives it. `STAGE/stage.json`
records both.
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

from vcjax import lock, processes

log = logging.getLogger(__name__)


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
        processes.on_first(lambda: stack.enter_context(lock.held(workdir)))
        yield


def seconds(workdir: Path, names: Sequence[str]) -> dict[str, float]:
    """Seconds that each complete stage of `names` took."""
    records = {name: _read(workdir / name) for name in names}
    return {name: r["seconds"] for name, r in records.items() if r.get("complete")}


def _run(stage: Stage, workdir: Path) -> None:
    if not stage.together:
        processes.on_first(lambda: _finish(stage, workdir) if _begin(stage, workdir) else None)
    elif processes.on_first(lambda: _begin(stage, workdir)):
        if processes.is_first():
            _finish(stage, workdir)
        else:
            stage.run(workdir / stage.name)


def _begin(stage: Stage, workdir: Path) -> bool:
    """Whether the stage has to run, its folder then made ready for it."""
    directory = workdir / stage.name
    inputs = {name: _digest(stage.name, workdir, name) for name in stage.inputs}
    fingerprint = _hash({"settings": stage.settings, "inputs": inputs})
    recipe = _recipe(stage, workdir)
    record = _read(directory)
    if record.get("fingerprint") == fingerprint and record.get("complete"):
        log.info("%s: complete, skipped", stage.name)
        return False
    if record and record.get("fingerprint") != fingerprint:
        changed = ", ".join(_changed(record, stage.settings, inputs))
        if stage.by_video and record.get("recipe") == recipe:
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


def _recipe(stage: Stage, workdir: Path) -> str:
    chosen = {k: v for k, v in stage.settings.items() if k not in stage.which_videos}
    inputs = {name: _read(workdir / name).get("recipe") for name in stage.inputs}
    return _hash({"settings": chosen, "inputs": inputs})


def _finish(stage: Stage, workdir: Path) -> None:
    """Runs a stage that has begun, and records how that went."""
    directory = workdir / stage.name
    record = _read(directory)
    begin = time.monotonic()
    try:
        digest = stage.run(directory)
        record |= {"complete": True, "digest": digest or record["fingerprint"]}
    finally:
        record["seconds"] = round(record["seconds"] + time.monotonic() - begin, 2)
        _write(directory, record)
    log.info("%s: done in %.0f s", stage.name, record["seconds"])


def _digest(name: str, workdir: Path, needed: str) -> str:
    record = _read(workdir / needed)
    if not record.get("complete"):
        raise StageError(f"{name} needs {needed}, which is not complete; add it to --stages")
    return record["digest"]


def _changed(record: dict[str, Any], settings: dict[str, Any], inputs: dict[str, str]) -> list[str]:
    old, new = record.get("settings", {}), json.loads(json.dumps(settings))
    keys = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    taken = record.get("inputs", {})
    stages = sorted(k for k in taken.keys() | inputs.keys() if taken.get(k) != inputs.get(k))
    return keys + [f"stage {k}" for k in stages]


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _read(directory: Path) -> dict[str, Any]:
    try:
        return json.loads((directory / "stage.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def _write(directory: Path, record: dict[str, Any]) -> None:
    temporary = directory / "stage.json.tmp"
    temporary.write_text(json.dumps(record, indent=1))
    os.replace(temporary, directory / "stage.json")
