"""Runner of the stages of a pipeline, in order, which skips stages that are already complete.

The fingerprint of a stage hashes its settings and the digests of its input stages, so a change
redoes exactly the stages that depend on it. The recipe of a stage leaves out the settings that only
select the videos: if the recipe is unchanged, the state of the remaining videos is kept.
`STAGE/stage.json` records both, with checksums of the files that the stage wrote; a stage with
damaged files runs again.

All stages are checked before the first one changes a file. The result of a stage that is redone is
moved to `STAGE.previous` until the new result is complete, and taken back if the old settings
return before.
"""

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vcjax.runtime import checksums, hosts, lock, previous_result, stage_record
from vcjax.runtime.stage_record import StageError

log = logging.getLogger(__name__)


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
    section: str = ""  # section of the config that `settings` holds at its top level
    networks: tuple[str, ...] = ()  # inputs whose checkpoints the stage reads
    # raises ValueError if the stage cannot run; it gets the names of the stages that run before it,
    # whose results do not exist yet
    check: Callable[[Collection[str]], None] = lambda running: None
    # returns files without a checksum in the record that are missing or damaged; they are removed
    # and the stage runs again
    damaged: Callable[[], list[Path]] = lambda: []
    # (recorded settings, settings) -> True if the recorded result is a part of the new one, from
    # which the stage continues
    extends: Callable[[dict[str, Any], dict[str, Any]], bool] = lambda old, new: False


class _Plan(NamedTuple):
    """The decision about one stage, made before anything on disk is changed.

    Actions:
      skip: the stage is complete and its files are intact.
      start: the stage has no record yet.
      continue: the record has the same fingerprint; the stage resumes from its files.
      update: only the selection of videos changed; the state of the remaining videos is kept.
      extend: the stage continues from its files toward a larger result, such as more epochs.
      redo: settings or inputs changed; old files are set aside first.
      restore: the result that was set aside has these settings and inputs.
    """

    stage: Stage
    action: Literal["skip", "start", "continue", "update", "extend", "redo", "restore"]
    record: dict[str, Any] = {}  # to write before the stage runs
    changed: str = ""  # settings and inputs that changed, for update, extend and redo
    damaged: tuple[Path, ...] = ()  # damaged or missing files of the stage itself
    problem: str = ""  # the reason why the stage cannot run, if any


def run(
    stages: Sequence[Stage],
    workdir: Path,
    *,
    only: Sequence[str] = (),
    keep_previous: bool = False,
) -> None:
    """Run `stages`, or only the stages named in `only`, in order, each in `workdir/<name>`.

    A stage that is named in `only` and whose checkpoints were removed makes them again.

    Args:
      stages: all stages of the pipeline; inputs come before the stages that need them.
      workdir: folder of the run.
      only: names of the stages to run; (): all.
      keep_previous: keep `STAGE.previous` when the new result is complete.

    Raises:
      StageError: if a stage cannot run.
      lock.LockError: if another run holds the lock of `workdir`.
    """
    names = [stage.name for stage in stages]
    if unknown := sorted(set(only) - set(names)):
        raise StageError(f"no stage {unknown[0]!r} in this config; use some of {', '.join(names)}")
    with _locked(workdir):
        hosts.run_on_primary(lambda: _check(stages, workdir, only))
        for stage in stages:
            if not only or stage.name in only:
                _run(stage, workdir, again=stage.name in only, keep_previous=keep_previous)


def _check(stages: Sequence[Stage], workdir: Path, only: Sequence[str]) -> None:
    """Raise an error if a stage that has to run cannot run. Nothing is written or removed."""
    outdated: dict[str, str] = {}  # stage that is not in `only` -> difference from the config
    running: set[str] = set()
    changing: set[str] = set()  # stages of `running` whose digest may change
    for stage in stages:
        old = [name for name in stage.inputs if name in outdated]
        if only and stage.name not in only:
            if difference := _outdated(stage, workdir) or (outdated[old[0]] if old else ""):
                outdated[stage.name] = difference
            continue
        if old:
            raise StageError(
                f"{stage.name} needs {old[0]}, which was made with other settings: "
                f"{outdated[old[0]]}; add {','.join(old)} to --stages, or use the earlier settings"
            )
        if changing.isdisjoint(stage.inputs):
            plan = _plan(stage, workdir, running=running, again=stage.name in only)
            if plan.action == "skip":
                continue
            if plan.problem:
                raise StageError(plan.problem)
            if plan.action != "restore":
                stage.check(running)
            if plan.action != "continue" or not stage_record.read(workdir / stage.name).get(
                "complete"
            ):
                changing.add(stage.name)
        else:
            inputs = {
                name: _complete(stage.name, workdir, name)
                for name in stage.inputs
                if name not in running
            }
            if problem := _input_problem(stage, workdir, inputs, running):
                raise StageError(problem)
            stage.check(running)
            changing.add(stage.name)
        running.add(stage.name)


def _outdated(stage: Stage, workdir: Path) -> str:
    """Return the differences of the record of a complete stage from its settings and inputs."""
    record = stage_record.read(workdir / stage.name)
    if not record.get("complete") or "settings" not in record:
        return ""
    digests = {name: stage_record.read(workdir / name).get("digest", "") for name in stage.inputs}
    return ", ".join(_changed(record, stage, digests))


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    """Hold the lock of `workdir` in the first process, on behalf of the whole run."""
    with contextlib.ExitStack() as stack:
        hosts.run_on_primary(lambda: stack.enter_context(lock.held(workdir)))
        yield


def _run(stage: Stage, workdir: Path, *, again: bool, keep_previous: bool) -> None:
    def finish(action: str) -> None:
        _finish(stage, workdir, is_redone=action == "redo", keep_previous=keep_previous)

    def begin_and_finish() -> None:
        if action := _begin(stage, workdir, again):
            finish(action)

    if not stage.together:
        hosts.run_on_primary(begin_and_finish)
    elif action := hosts.run_on_primary(lambda: _begin(stage, workdir, again)):
        if hosts.is_primary():
            finish(action)
        else:
            stage.run(workdir / stage.name)


def _begin(stage: Stage, workdir: Path, again: bool) -> str:
    """Prepare the folder of the stage; return the action of its plan, or "" if it is complete."""
    plan = _plan(stage, workdir, again=again)
    if plan.action == "restore":
        log.info("%s: the previous result has these settings and is used again", stage.name)
        previous_result.take_back(workdir / stage.name, is_whole=not stage.keeps)
        plan = _plan(stage, workdir, again=again)
    if not plan.problem and plan.action not in ("skip", "restore"):
        stage.check(())
    _apply(plan, workdir / stage.name)
    return "" if plan.action == "skip" else plan.action


def _plan(
    stage: Stage, workdir: Path, *, running: Collection[str] = (), again: bool = False
) -> _Plan:
    """Decide whether and how the stage runs. Nothing is written or removed.

    Args:
      stage: the stage.
      workdir: folder of the run.
      running: stages that run before it; their files are not verified.
      again: run a complete stage whose checkpoints were removed.

    Raises:
      StageError: if an input stage is not complete.
    """
    directory = workdir / stage.name
    inputs = {name: _complete(stage.name, workdir, name) for name in stage.inputs}
    digests = {name: record["digest"] for name, record in inputs.items()}
    fingerprint = _hash({"settings": stage.settings, "inputs": digests})
    old = stage_record.read(directory)
    is_same = old.get("fingerprint") == fingerprint
    bad: list[Path] = []
    if is_same and old.get("complete"):
        bad = stage_record.damaged(workdir, old) + stage.damaged()
        if not bad and not (again and stage_record.without_checkpoints(directory, old)):
            return _Plan(stage, "skip")
    if not is_same and previous_result.read(directory).get("fingerprint") == fingerprint:
        return _Plan(stage, "restore")
    new = {
        "fingerprint": fingerprint,
        "recipe": _recipe(stage, inputs),
        "settings": stage.settings,
        "inputs": digests,
        "complete": False,
        "seconds": old.get("seconds", 0.0) if is_same else 0.0,
    }
    plan = _Plan(stage, "continue" if is_same else "start", new, damaged=tuple(bad))
    if old and not is_same:
        changed = ", ".join(_changed(old, stage, digests))
        plan = plan._replace(action=_change(stage, workdir, old, new), changed=changed)
    resumes = plan.action in ("continue", "update", "extend") and stage_record.steps(directory)
    needs = stage._replace(networks=()) if resumes else stage
    return plan._replace(problem=_input_problem(needs, workdir, inputs, running))


def _change(
    stage: Stage, workdir: Path, old: dict[str, Any], new: dict[str, Any]
) -> Literal["update", "extend", "redo"]:
    """Return the action for a record with other settings or inputs."""

    def is_intact() -> bool:
        return not stage_record.damaged(workdir, old)

    if stage.by_video and old.get("recipe") == new["recipe"] and is_intact():
        return "update"
    before, after = old.get("settings", {}), _as_json(new["settings"])
    same_inputs = old.get("inputs") == new["inputs"]
    if before and same_inputs and stage.extends(before, after) and is_intact():
        return "extend"
    return "redo"


def _input_problem(
    stage: Stage, workdir: Path, inputs: Mapping[str, dict[str, Any]], running: Collection[str]
) -> str:
    """Return the reason why an input stage cannot be used, or ""."""
    for name, record in inputs.items():
        if name in running:
            continue
        if bad := stage_record.damaged(workdir, record):
            return (
                f"{stage.name} needs {name}, but {stage_record.some(bad)} is missing or damaged; "
                f"run {name} again to rebuild it"
            )
        if name in stage.networks and not stage_record.steps(workdir / name):
            return (
                f"{stage.name} needs the checkpoints of {name}, which were removed; "
                f"--stages={name},{stage.name} makes them again"
            )
    return ""


def _apply(plan: _Plan, directory: Path) -> None:
    """Log the plan, set files aside that must not be reused, and write the new record.

    Raises:
      StageError: if the plan has a problem.
    """
    name = plan.stage.name
    if plan.action == "skip":
        log.info("%s: complete, skipped", name)
        return
    if plan.damaged:
        log.warning(
            "%s: %s: missing or damaged; running it again", name, stage_record.some(plan.damaged)
        )
        for path in plan.damaged:
            # A damaged checkpoint is kept here: the stage itself falls back to an older one.
            if "checkpoints" not in path.parts:
                path.unlink(missing_ok=True)
    if plan.problem:
        raise StageError(plan.problem)
    if plan.action == "update":
        log.info("%s: updated, because %s", name, plan.changed)
    elif plan.action == "extend":
        log.info("%s: continues, because %s; %s kept", name, plan.changed, _cost(directory))
        previous_result.copy_aside(directory)
    elif plan.action == "redo":
        log.info(
            "%s: redone, because %s; %s repeated; the old result stays in %s until it is replaced",
            name,
            plan.changed,
            _cost(directory),
            previous_result.previous_of(directory),
        )
        previous_result.set_aside(directory, plan.stage.by_video if plan.stage.keeps else None)
    log.info("%s: %s", name, "resumed" if plan.action == "continue" else "started")
    directory.mkdir(parents=True, exist_ok=True)
    stage_record.write(directory, plan.record)


def _cost(directory: Path) -> str:
    """Return the work in the folder of a stage, with a verb: "6 trained steps are"."""
    if trained := stage_record.steps(directory):
        return f"{trained[-1]} trained steps are"
    return f"{stage_record.read(directory).get('seconds', 0):.0f} s of work are"


def _recipe(stage: Stage, inputs: dict[str, dict[str, Any]]) -> str:
    chosen = {k: v for k, v in stage.settings.items() if k not in stage.which_videos}
    recipes = {name: record.get("recipe") for name, record in inputs.items()}
    return _hash({"settings": chosen, "inputs": recipes})


def _finish(stage: Stage, workdir: Path, *, is_redone: bool, keep_previous: bool) -> None:
    """Run a prepared stage and record its duration and, on success, its result.

    If a redone stage is refused before it has trained a step, its previous result is taken back.
    """
    directory = workdir / stage.name
    record = stage_record.read(directory)
    begin = time.monotonic()
    before = record["seconds"]
    try:
        digest = stage.run(directory)
        files = checksums.checksums_of(_left(stage, workdir), workdir)
        record |= {"digest": digest or record["fingerprint"], "files": files, "complete": True}
    except BaseException as error:
        with contextlib.suppress(OSError):  # must not replace the original error, e.g. a full disk
            if isinstance(error, ValueError) and is_redone and not stage_record.steps(directory):
                previous_result.take_back(directory, is_whole=not stage.keeps)
            else:
                stage_record.write(directory, record | {"seconds": _seconds(before, begin)})
        raise
    stage_record.write(directory, record | {"seconds": _seconds(before, begin)})
    log.info("%s: done in %.0f s", stage.name, _seconds(before, begin))
    if not keep_previous:
        previous_result.remove(previous_result.previous_of(directory))


def _seconds(before: float, begin: float) -> float:
    return round(before + time.monotonic() - begin, 2)


def _left(stage: Stage, workdir: Path) -> list[Path]:
    """Return the files that the stage wrote, without files that hold their own checksum."""
    paths = (workdir / stage.name).glob(stage.files) if stage.files else []
    own = [
        p
        for p in paths
        if p.is_file() and p.name not in (stage_record.RECORD, stage_record.PREVIOUS)
    ]
    return own + [workdir / name for name in stage.workdir_files]


def _complete(name: str, workdir: Path, needed: str) -> dict[str, Any]:
    """Return the record of the stage `needed`, an input of the stage `name`."""
    record = stage_record.read(workdir / needed)
    if not record.get("complete"):
        raise StageError(f"{name} needs {needed}, which is not complete; add it to --stages")
    return record


def _changed(record: dict[str, Any], stage: Stage, inputs: Mapping[str, str]) -> list[str]:
    """Return the settings and input stages that differ from the record, with their values."""
    old, new = record.get("settings", {}), _as_json(stage.settings)
    before = record.get("inputs", {})
    stages = sorted(k for k in before.keys() | inputs.keys() if before.get(k) != inputs.get(k))
    prefix = f"{stage.section}." if stage.section else ""
    return [*_differences(old, new, prefix), *(f"stage {k} changed" for k in stages)]


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str) -> Iterator[str]:
    """Yield a text such as "ir.epochs 20 -> 40" for each setting that differs."""
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after, f"{prefix}{key}.")
        elif key == "source" and "" not in (before, after):  # a hash of the videos
            yield f"{prefix}{key} changed"
        else:
            yield f"{prefix}{key} {json.dumps(before)} -> {json.dumps(after)}"


def _as_json(content: Any) -> Any:
    """Return `content` as it is read from a record: with lists in place of tuples."""
    return json.loads(json.dumps(content))


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
