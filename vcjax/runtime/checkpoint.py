"""Checkpoints of everything that training needs, by orbax: no pickle, asynchronous, atomic.

Each has `checksums.json` beside its arrays, since orbax itself restores some flipped bits as they
are. It is written before orbax commits the checkpoint: none is there without it.
"""

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy
from orbax.checkpoint.options import AsyncOptions, MultiprocessingOptions

from vcjax.runtime import checksums, hosts
from vcjax.runtime.checksums import DamagedError

log = logging.getLogger(__name__)

_CHECKSUMS = "checksums.json"
_BEST = "best.json"
_UNFINISHED = "*.orbax-checkpoint-tmp*"
_PADDED = ("bank", "labels")  # to a multiple of the devices


class CheckpointError(OSError):
    """A checkpoint cannot be written; the message says where and why."""


class Best(NamedTuple):
    """The best checkpoint of a stage so far; the higher its score, the better."""

    step: int
    score: float


class Checkpoints:
    """The newest checkpoints of one stage and the best, each a pytree of arrays.

    Damaged ones that are newer than a sound one are removed, with a warning that names the file.
    Raises DamagedError if none is sound.
    """

    def __init__(self, directory: Path, *, keep: int = 2) -> None:
        self._directory = directory = directory.absolute()
        hosts.on_first(lambda: _clean(directory))
        found = hosts.on_first(lambda: _best(directory))
        self._best = Best(*found) if found else None
        self._manager = ocp.CheckpointManager(
            directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy(
                    [preservation_policy.LatestN(keep), _IsBest(self)]
                ),
                create=True,
                async_options=AsyncOptions(
                    # or threads wait 20 minutes for a folder that could not be made
                    create_directories_asynchronously=False,
                    post_finalization_callback=lambda: _write_checksums(directory),
                ),
            ),
        )

    @property
    def latest(self) -> int | None:
        """Step of the newest whole checkpoint."""
        return self._manager.latest_step()

    @property
    def best(self) -> Best | None:
        """The checkpoint that `keep_best` named last, if it is there."""
        return self._best

    def keep_best(self, step: int, score: float) -> None:
        """Keeps the checkpoint of `step`, once it is written, until another one is better."""
        with self._explained():
            self._manager.wait_until_finished()
            self._best = best = Best(step, score)
            hosts.on_first(lambda: checksums.write_json(self._directory / _BEST, best._asdict()))

    def save(self, step: int, state: Any) -> None:
        """Starts to write `state`, arrays only, as the checkpoint of `step`.

        Raises CheckpointError where the one before it could not be written, as `close` does.
        """
        with self._explained():
            self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state)))

    def restore(self, template: Any) -> Any:
        """The newest state; shapes, types and shardings as in `template`, as by `restore_part`."""
        return restore_part(self._directory, template)

    def reached_preemption(self, count: int) -> bool:
        """Whether the processes of a run, told to stop, agreed on their call number `count`."""
        return self._manager.reached_preemption(count)

    def close(self) -> None:
        """Waits for what is being written."""
        with self._explained():
            self._manager.wait_until_finished()
            self._manager.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError) as error:
            code = re.search(r"os_error_code='(\d+)'", str(error))
            reason = os.strerror(int(code[1])) if code else str(error).partition("\n")[0]
            whole = f"that of step {self.latest} is whole" if self.latest else "there is none"
            raise CheckpointError(
                f"{self._directory}: a checkpoint cannot be written: {reason}; {whole}"
            ) from error


def shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays that are entries of the states under `directory`."""
    step = max(ocp.utils.checkpoint_steps(directory.absolute()))
    entries = ocp.StandardCheckpointHandler().metadata(directory.absolute() / str(step) / "state")
    return {k: tuple(v.shape) for k, v in entries.tree.items() if hasattr(v, "shape")}


def restore_part(
    directory: Path, template: dict[str, Any], *, alone: bool = False, best: bool = False
) -> dict[str, Any]:
    """Those entries of the newest state under `directory` that `template` has, shaped as there.

    With `best` those of the best state. On another number of devices the entries `bank` and
    `labels` are cut or padded with zeros. With `alone` this process reads by itself, whatever
    others of the run do. Raises FileNotFoundError where there is no such checkpoint, DamagedError
    where it is damaged.
    """
    # Another manager than the one that saves: which handler an item has is fixed at first use.
    me = jax.process_index()
    processes = MultiprocessingOptions(
        primary_host=me if alone else 0, active_processes={me} if alone else None
    )
    manager = ocp.CheckpointManager(
        directory.absolute(),
        item_names=("state",),
        options=ocp.CheckpointManagerOptions(create=False, multiprocessing_options=processes),
    )
    try:
        chosen = _best(directory) if best else None
        step = chosen.step if chosen else manager.latest_step()
        if step is None or (best and not chosen):
            raise FileNotFoundError(f"no {'best ' * best}checkpoint in {directory}")
        if found := damaged(directory / str(step)):
            raise DamagedError(
                f"{found[0]}: damaged; run the stage again, it goes on from an older checkpoint"
            )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        restore = ocp.args.PyTreeRestore(
            item=abstract,
            restore_args={
                name: ocp.checkpoint_utils.construct_restore_args(part, strict=name not in _PADDED)
                for name, part in abstract.items()
            },
            partial_restore=True,
        )
        restored = manager.restore(step, args=ocp.args.Composite(state=restore))
        return restored["state"]
    finally:
        manager.close()


def damaged(checkpoint: Path) -> list[Path]:
    """The files of a checkpoint, a folder DIRECTORY/STEP, that are not as they were written."""
    try:
        recorded = checksums.read_json(checkpoint / _CHECKSUMS)
    except FileNotFoundError:  # of before there were checksums
        return []
    except DamagedError:
        return [checkpoint / _CHECKSUMS]
    missing = checksums.missing(recorded, checkpoint)
    return missing + checksums.damaged(recorded, checkpoint)


def committed(directory: Path) -> list[Path]:
    """The checkpoints under `directory`, the newest first."""
    if not directory.is_dir():
        return []
    return sorted(
        (path for path in directory.iterdir() if path.name.isdecimal() and path.is_dir()),
        key=lambda path: -int(path.name),
    )


class _IsBest(preservation_policy.PreservationPolicy):
    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        best = self._checkpoints.best
        return [best is not None and found.step == best.step for found in checkpoints]


def _best(directory: Path) -> Best | None:
    """What is recorded of the best checkpoint, if that is there."""
    try:
        best = Best(**checksums.read_json(directory / _BEST))
    except (FileNotFoundError, DamagedError):
        return None
    return best if (directory / str(best.step)).is_dir() else None


def _clean(directory: Path) -> None:
    """Removes what killed runs were writing, and checkpoints until the newest is sound.

    The best one too, if it is damaged.
    """
    for unfinished in directory.glob(_UNFINISHED):
        shutil.rmtree(unfinished)
    bad: dict[Path, Path] = {}
    for checkpoint in committed(directory):
        if not (found := damaged(checkpoint)):
            break
        bad[checkpoint] = found[0]
    else:
        if bad:
            listed = ", ".join(map(str, bad.values()))
            raise DamagedError(
                f"all checkpoints are damaged: {listed}; remove {directory} to train the stage anew"
            )
    for checkpoint, file in bad.items():
        log.warning("%s: damaged; the checkpoint before it is used", file)
        shutil.rmtree(checkpoint)
    if (best := _best(directory)) and (found := damaged(directory / str(best.step))):
        log.warning("%s: damaged; the best checkpoint is that of a later validation", found[0])
        shutil.rmtree(directory / str(best.step))


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a message is not the traceback of what orbax raises, too, at the next call."""
    if not record.exc_info:
        return True
    # of the many arrays that cannot be written orbax raises the first; asyncio tells of the others
    others = record.name == "asyncio" and "_GatheringFuture" in record.getMessage()
    return not (others or "orbax" in Path(record.pathname).parts)


for _logger in ("absl", "asyncio"):
    logging.getLogger(_logger).addFilter(_is_news)


def _write_checksums(directory: Path) -> None:
    """Of the checkpoint that is about to be committed: all but orbax's own record of the commit."""
    for checkpoint in directory.glob(_UNFINISHED):
        files = (path for path in checkpoint.glob("*/**/*") if path.is_file())
        checksums.write_json(checkpoint / _CHECKSUMS, checksums.of_files(files, checkpoint))
