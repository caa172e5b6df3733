"""Checkpoints of the whole training state, written by orbax: no pickle, asynchronous, atomic.

Each checkpoint has a file `checksums.json`, since orbax restores some flipped bits without an
error. The file is written before orbax commits the checkpoint, so every committed one has it.
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
from vcjax.runtime.checkpoint_files import CHECKSUMS, committed, damaged
from vcjax.runtime.checksums import DamagedError

log = logging.getLogger(__name__)

_BEST = "best.json"
_UNFINISHED = "*.orbax-checkpoint-tmp*"
_PADDED = ("bank", "labels")  # entries padded to a multiple of the number of devices


class CheckpointError(OSError):
    """A checkpoint cannot be written; the message names the folder and the reason."""


class Best(NamedTuple):
    """Step and validation score of the best checkpoint of a stage; higher scores are better."""

    step: int
    score: float


class Checkpoints:
    """The newest `keep` checkpoints of one stage and the best one, each a pytree of arrays.

    On opening, unfinished checkpoints are removed, and so are damaged checkpoints newer than the
    newest intact one, with a warning that names the damaged file.

    Raises:
      DamagedError: if there are checkpoints, but all of them are damaged.
    """

    def __init__(self, directory: Path, *, keep: int = 2) -> None:
        self._directory = directory = directory.absolute()
        hosts.run_on_primary(lambda: _clean(directory))
        best = hosts.run_on_primary(lambda: _best(directory))
        self._best = Best(*best) if best else None
        self._manager = ocp.CheckpointManager(
            directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy(
                    [preservation_policy.LatestN(keep), _IsBest(self)]
                ),
                create=True,
                async_options=AsyncOptions(
                    # Otherwise threads wait 20 minutes for a folder that could not be created.
                    create_directories_asynchronously=False,
                    post_finalization_callback=lambda: _write_checksums(directory),
                ),
            ),
        )

    @property
    def latest(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    @property
    def best(self) -> Best | None:
        """The checkpoint last passed to `keep_best`, or None."""
        return self._best

    def keep_best(self, step: int, score: float) -> None:
        """Wait for the checkpoint of `step` and keep it as the best one, replacing the former."""
        with self._explained():
            self._manager.wait_until_finished()
            self._best = best = Best(step, score)
            hosts.run_on_primary(
                lambda: checksums.write_json(self._directory / _BEST, best._asdict())
            )

    def save(self, step: int, state: Any) -> None:
        """Start to write `state`, a pytree of arrays, as the checkpoint of `step`.

        Writing is asynchronous, so an error may surface at the next call of `save` or `close`.

        Raises:
          CheckpointError: if this or the previous checkpoint cannot be written.
        """
        with self._explained():
            self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state)))

    def restore(self, template: Any) -> Any:
        """Return the newest state with the shapes, dtypes and shardings of `template`.

        See `restore_part`.
        """
        return restore_part(self._directory, template)

    def reached_preemption(self, count: int) -> bool:
        """Return True if the processes, asked to stop, agreed to stop after call `count`.

        All processes must call it with the same counts, and all receive the same answer.
        """
        return self._manager.reached_preemption(count)

    def close(self) -> None:
        """Wait until pending checkpoints are written, and release resources."""
        with self._explained():
            self._manager.wait_until_finished()
            self._manager.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError) as error:
            # tensorstore raises a ValueError with the code in its text, orbax itself an OSError
            text = re.search(r"os_error_code='(\d+)'", str(error))
            code = int(text[1]) if text else getattr(error, "errno", None)
            reason = os.strerror(code) if code else str(error).partition("\n")[0]
            latest = f"the checkpoint of step {self.latest} is intact"
            raise CheckpointError(
                f"{self._directory}: a checkpoint cannot be written: {reason}; "
                f"{latest if self.latest else 'there is no earlier checkpoint'}"
            ) from error


def shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """Return {name: shape} of the top-level arrays of the newest checkpoint in `directory`."""
    step = max(ocp.utils.checkpoint_steps(directory.absolute()))
    entries = ocp.StandardCheckpointHandler().metadata(directory.absolute() / str(step) / "state")
    return {k: tuple(v.shape) for k, v in entries.tree.items() if hasattr(v, "shape")}


def restore_part(
    directory: Path, template: dict[str, Any], *, alone: bool = False, best: bool = False
) -> dict[str, Any]:
    """Restore the entries of a checkpoint that `template` has.

    Args:
      directory: the folder of the checkpoints of a stage.
      template: arrays, or their structs, with the shapes, dtypes and shardings to restore to. The
        entries `bank` and `labels` are cropped or padded with zeros if the saved array was padded
        for another number of devices; any other difference in shape is an error.
      alone: read in this process only, independently of the other processes of the run.
      best: read the checkpoint with the best validation score instead of the newest one.

    Returns:
      The restored entries, by name.

    Raises:
      FileNotFoundError: if there is no such checkpoint.
      DamagedError: if the checkpoint fails the verification of its checksums.
      ValueError: if an entry other than `bank` and `labels` has another shape.
    """
    # A manager fixes the handler of an item at its first use, so the one that saves cannot be used.
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
        if bad := damaged(directory / str(step)):
            raise DamagedError(
                f"{bad[0]}: damaged; run the stage again to resume from an older checkpoint"
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


class _IsBest(preservation_policy.PreservationPolicy):
    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        best = self._checkpoints.best
        return [best is not None and saved.step == best.step for saved in checkpoints]


def _best(directory: Path) -> Best | None:
    """Return the recorded best checkpoint, or None if its record or its folder is missing."""
    try:
        best = Best(**checksums.read_json(directory / _BEST))
    except (FileNotFoundError, DamagedError):
        return None
    return best if (directory / str(best.step)).is_dir() else None


def _clean(directory: Path) -> None:
    """Remove unfinished checkpoints, then damaged ones until the newest is intact.

    The best checkpoint is removed as well if it is damaged.
    """
    for unfinished in directory.glob(_UNFINISHED):
        shutil.rmtree(unfinished)
    bad: dict[Path, Path] = {}
    for checkpoint in committed(directory):
        if not (files := damaged(checkpoint)):
            break
        bad[checkpoint] = files[0]
    else:
        if bad:
            listed = ", ".join(map(str, bad.values()))
            raise DamagedError(
                f"all checkpoints are damaged: {listed}; remove {directory} to restart the stage"
            )
    for checkpoint, file in bad.items():
        log.warning("%s: damaged; using the previous checkpoint", file)
        shutil.rmtree(checkpoint)
    if (best := _best(directory)) and (files := damaged(directory / str(best.step))):
        log.warning("%s: damaged; a later validation selects a new best checkpoint", files[0])
        shutil.rmtree(directory / str(best.step))


def _is_news(record: logging.LogRecord) -> bool:
    """Return False for a logged traceback of an error that orbax also raises at its next call."""
    if not record.exc_info:
        return True
    # If several arrays cannot be written, orbax raises the first error and asyncio logs the rest.
    rest = record.name == "asyncio" and "exception was never retrieved" in record.getMessage()
    return not (rest or "orbax" in Path(record.pathname).parts)


for _logger in ("absl", "asyncio"):
    logging.getLogger(_logger).addFilter(_is_news)


def _write_checksums(directory: Path) -> None:
    """Write the checksums of the checkpoint that is about to be committed.

    They cover all files but orbax's own record of the commit, which does not exist yet.
    """
    for checkpoint in directory.glob(_UNFINISHED):
        files = (path for path in checkpoint.glob("*/**/*") if path.is_file())
        checksums.write_json(checkpoint / CHECKSUMS, checksums.checksums_of(files, checkpoint))
