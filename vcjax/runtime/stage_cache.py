"""Runner of the stages of a pipeline, in order, which skips stages that are already complete.

The fingerprint of a stage hashes its settings and the digests of its input stages, so a change
redoes exactly the stages that depend on it. The recipe of a stage leaves out the settings that only
select the videos: if the recipe is unchanged, the state of the remaining videos is kept.
`STAGE/stage.json` records both, with checksums of the files that the stage wrote; a stage with
damaged files runs again.
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
from typing import Any, Literal, NamedTuple

from vcjax.runtime import checksums, hosts, lock

log = logging.getLogger(__name__)

_RECORD, _PREVIOUS = "stage.json", "stage.previous.json"


class StageError(ValueError):
    """A stage cannot run; the message has the reason and the remedy."""


class Stage(NamedTuple):
    """One stage of a pipeline: its name, its dependencies and the function that runs it.

    `run(directory)` does the work, resuming from the files in `directory`, and may return a digest
    of its result; without a digest, the fingerprint is used.
    """

    name: str
    settings: dict[str, Any]
    inputs: tuple[str, ...]  # names of earlier stages
    run: Callable[[Path], str | None]
    together: bool = False  # runs in every process of the run, not only in the first
    keeps: bool = False  # keeps its folder if settings change, since it verifies each file itself
    which_videos: tuple[str, ...] = ()  # settings that only select the videos
    by_video: tuple[str, ...] = ()  # entries of its folder that hold state by video_id
    files: str = "**/*"  # pattern of files to checksum; "": none, if files hold their own checksum
    workdir_files: tuple[str, ...] = ()  # files that it writes to the workdir itself


class _Plan(NamedTuple):
    """The decision about one stage, made before anything on disk is changed.

    Actions:
      skip: the stage is complete and its files are intact.
      start: the stage has no record yet.
      continue: the record has the same fingerprint; the stage resumes from its files.
      update: only the selection of videos changed; the state of the remaining videos is kept.
      redo: settings or inputs changed; old files are removed first.
    """

    stage: Stage
    action: Literal["skip", "start", "continue", "update", "redo"]
    record: dict[str, Any] = {}  # to write before the stage runs
    changed: str = ""  # settings and inputs that changed, for update and redo
    damaged: tuple[Path, ...] = ()  # damaged or missing files of the stage itself
    problem: str = ""  # the reason why the stage cannot run, if any


def run(stages: Sequence[Stage], workdir: Path, *, only: Sequence[str] = ()) -> None:
    """Run `stages`, or only the stages named in `only`, in order, each in `workdir/<name>`.

    Raises:
      StageError: if a stage cannot run.
      lock.LockError: if another run holds the lock of `workdir`.
    """
    names = [stage.name for stage in stages]
    if unknown := sorted(set(only) - set(names)):
        raise StageError(f"no stage {unknown[0]!r} in this config; use some of {', '.join(names)}")
    with _locked(workdir):
        for stage in stages:
            if not only or stage.name in only:
                _run(stage, workdir)


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    """Hold the lock of `workdir` in the first process, on behalf of the whole run."""
    with contextlib.ExitStack() as stack:
        hosts.run_on_primary(lambda: stack.enter_context(lock.held(workdir)))
        yield


def seconds(workdir: Path, names: Sequence[str]) -> dict[str, float]:
    """Return {name: duration in seconds} for each complete stage of `names`."""
    records = {name: read(workdir / name) for name in names}
    return {name: r["seconds"] for name, r in records.items() if r.get("complete")}


def read(directory: Path) -> dict[str, Any]:
    """Return the record of the stage in `directory`, or {} if the stage has never started.

    If the record is missing or damaged, the previous record is returned, if there is one.

    Raises:
      StageError: if the record is damaged and there is no intact previous record.
    """
    problems = []
    for path in (directory / _RECORD, directory / _PREVIOUS):
        try:
            return checksums.read_json(path)
        except FileNotFoundError:
            continue
        except checksums.DamagedError as error:
            log.warning("%s; using the previous record", error)
            problems.append(path)
    if problems:
        raise StageError(f"{problems[0]}: damaged; remove {directory} to redo the stage")
    return {}


def damaged(workdir: Path, record: dict[str, Any]) -> list[Path]:
    """Return the files of `record` that are missing or damaged, as paths in `workdir`.

    Missing checkpoints are not included, since users may remove them to save space.
    """
    files = record.get("files", {})
    missing = [p for p in checksums.missing(files, workdir) if "checkpoints" not in p.parts]
    return missing + checksums.find_corrupt(files, workdir)


def check(directory: Path) -> None:
    """Raise StageError if files that the stage in `directory` wrote are missing or damaged."""
    if bad := damaged(directory.parent, read(directory)):
        raise StageError(
            f"{_some(bad)} is missing or damaged; run the stage {directory.name} again"
        )


def reopen(workdir: Path, name: str) -> None:
    """Mark the stage `name` as incomplete, so that it runs again and verifies its files."""
    record = read(workdir / name)
    if record.get("complete"):
        _write(workdir / name, record | {"complete": False})


def _run(stage: Stage, workdir: Path) -> None:
    if not stage.together:
        hosts.run_on_primary(lambda: _finish(stage, workdir) if _begin(stage, workdir) else None)
    elif hosts.run_on_primary(lambda: _begin(stage, workdir)):
        if hosts.is_primary():
            _finish(stage, workdir)
        else:
            stage.run(workdir / stage.name)


def _begin(stage: Stage, workdir: Path) -> bool:
    """Prepare the folder of the stage; return False if the stage can be skipped."""
    plan = _plan(stage, workdir)
    _apply(plan, workdir / stage.name)
    return plan.action != "skip"


def _plan(stage: Stage, workdir: Path) -> _Plan:
    """Decide whether and how the stage runs. Nothing is written or removed.

    Raises:
      StageError: if an input stage is not complete.
    """
    inputs = {name: _complete(stage.name, workdir, name) for name in stage.inputs}
    digests = {name: record["digest"] for name, record in inputs.items()}
    fingerprint = _hash({"settings": stage.settings, "inputs": digests})
    old = read(workdir / stage.name)
    is_same = old.get("fingerprint") == fingerprint
    bad: list[Path] = []
    if is_same and old.get("complete"):
        bad = damaged(workdir, old)
        if not bad:
            return _Plan(stage, "skip")
    new = {
        "fingerprint": fingerprint,
        "recipe": _recipe(stage, inputs),
        "settings": stage.settings,
        "inputs": digests,
        "complete": False,
        "seconds": old.get("seconds", 0.0) if is_same else 0.0,
    }
    plan = _Plan(
        stage,
        "continue" if is_same else "start",
        new,
        damaged=tuple(bad),
        problem=_input_problem(stage, workdir, inputs),
    )
    if plan.problem or is_same or not old:
        return plan
    kept = stage.by_video and old.get("recipe") == new["recipe"] and not damaged(workdir, old)
    changed = ", ".join(_changed(old, stage.settings, digests))
    return plan._replace(action="update" if kept else "redo", changed=changed)


def _input_problem(stage: Stage, workdir: Path, inputs: dict[str, dict[str, Any]]) -> str:
    """Return the reason why an input stage cannot be used, or ""."""
    for name, record in inputs.items():
        if bad := damaged(workdir, record):
            return (
                f"{stage.name} needs {name}, but {_some(bad)} is missing or damaged; "
                f"run {name} again to rebuild it"
            )
    return ""


def _apply(plan: _Plan, directory: Path) -> None:
    """Log the plan, remove files that must not be reused, and write the new record.

    Raises:
      StageError: if the plan has a problem.
    """
    name = plan.stage.name
    if plan.action == "skip":
        log.info("%s: complete, skipped", name)
        return
    if plan.damaged:
        log.warning("%s: %s: missing or damaged; running it again", name, _some(plan.damaged))
        for path in plan.damaged:
            # A damaged checkpoint is kept here: the stage itself falls back to an older one.
            if "checkpoints" not in path.parts:
                path.unlink(missing_ok=True)
    if plan.problem:
        raise StageError(plan.problem)
    if plan.action == "update":
        log.info("%s: updated, because %s changed", name, plan.changed)
    elif plan.action == "redo":
        log.info("%s: redone, because %s changed", name, plan.changed)
        _clear(plan.stage, directory)
    log.info("%s: %s", name, "resumed" if plan.action == "continue" else "started")
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory, plan.record)


def _clear(stage: Stage, directory: Path) -> None:
    """Remove the folder of the stage, or only its state by video if it keeps its folder."""
    if not stage.keeps:
        shutil.rmtree(directory)
        return
    for name in stage.by_video:
        (directory / name).unlink(missing_ok=True)


def _recipe(stage: Stage, inputs: dict[str, dict[str, Any]]) -> str:
    chosen = {k: v for k, v in stage.settings.items() if k not in stage.which_videos}
    recipes = {name: record.get("recipe") for name, record in inputs.items()}
    return _hash({"settings": chosen, "inputs": recipes})


def _finish(stage: Stage, workdir: Path) -> None:
    """Run a prepared stage and record its duration and, on success, its result."""
    directory = workdir / stage.name
    record = read(directory)
    begin = time.monotonic()
    before = record["seconds"]
    try:
        digest = stage.run(directory)
        files = checksums.checksums_of(_left(stage, workdir), workdir)
        record |= {"digest": digest or record["fingerprint"], "files": files, "complete": True}
    except BaseException:
        with contextlib.suppress(OSError):  # must not replace the original error, e.g. a full disk
            _write(directory, record | {"seconds": _seconds(before, begin)})
        raise
    _write(directory, record | {"seconds": _seconds(before, begin)})
    log.info("%s: done in %.0f s", stage.name, _seconds(before, begin))


def _seconds(before: float, begin: float) -> float:
    return round(before + time.monotonic() - begin, 2)


def _left(stage: Stage, workdir: Path) -> list[Path]:
    """Return the files that the stage wrote, without files that hold their own checksum."""
    paths = (workdir / stage.name).glob(stage.files) if stage.files else []
    own = [p for p in paths if p.is_file() and p.name not in (_RECORD, _PREVIOUS)]
    return own + [workdir / name for name in stage.workdir_files]


def _complete(name: str, workdir: Path, needed: str) -> dict[str, Any]:
    """Return the record of the stage `needed`, an input of the stage `name`."""
    record = read(workdir / needed)
    if not record.get("complete"):
        raise StageError(f"{name} needs {needed}, which is not complete; add it to --stages")
    return record


def _changed(record: dict[str, Any], settings: dict[str, Any], inputs: dict[str, str]) -> list[str]:
    """Return the names of the settings and input stages that differ from the record."""
    old, new = record.get("settings", {}), json.loads(json.dumps(settings))
    keys = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    before = record.get("inputs", {})
    stages = sorted(k for k in before.keys() | inputs.keys() if before.get(k) != inputs.get(k))
    return keys + [f"stage {k}" for k in stages]


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _some(paths: Sequence[Path]) -> str:
    return f"{paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


def _write(directory: Path, record: dict[str, Any]) -> None:
    """Write the record, and keep the old one, if it is intact, as the previous record."""
    with contextlib.suppress(FileNotFoundError, checksums.DamagedError):
        checksums.read_json(directory / _RECORD)
        os.replace(directory / _RECORD, directory / _PREVIOUS)
    checksums.write_json(directory / _RECORD, record)
