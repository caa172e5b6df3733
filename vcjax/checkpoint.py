"""Checkpoints of everything that training needs, by orbax: no pickle, asynchronous, atomic."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.options import MultiprocessingOptions

_PADDED = ("bank", "labels")  # to a multiple of the devices


class Checkpoints:
    """The newest checkpoints of one stage, each a pytree of arrays."""

    def __init__(self, directory: Path, *, keep: int = 2) -> None:
        self._directory = directory
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
        )

    @property
    def latest(self) -> int | None:
        """Step of the newest whole checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Starts to write `state`, arrays only, as the checkpoint of `step`."""
        self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state)))

    def restore(self, template: Any) -> Any:
        """The newest state; shapes, types and shardings as in `template`, as by `restore_part`."""
        return restore_part(self._directory, template)

    def reached_preemption(self, count: int) -> bool:
        """Whether the processes of a run, told to stop, agreed on their call number `count`."""
        return self._manager.reached_preemption(count)

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()


def shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays that are entries of the states under `directory`."""
    step = max(ocp.utils.checkpoint_steps(directory.absolute()))
    entries = ocp.StandardCheckpointHandler().metadata(directory.absolute() / str(step) / "state")
    return {k: tuple(v.shape) for k, v in entries.tree.items() if hasattr(v, "shape")}


def restore_part(
    directory: Path, template: dict[str, Any], *, alone: bool = False
) -> dict[str, Any]:
    """Those entries of the newest state under `directory` that `template` has, shaped as there.

    On another number of devices the entries `bank` and `labels` are cut or padded with zeros.
    With `alone` this process reads by itself, whatever others of the run do. Raises
    FileNotFoundError where there is no checkpoint.
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
        if manager.latest_step() is None:
            raise FileNotFoundError(f"no checkpoint in {directory}")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        restore = ocp.args.PyTreeRestore(
            item=abstract,
            restore_args={
                name: ocp.checkpoint_utils.construct_restore_args(part, strict=name not in _PADDED)
                for name, part in abstract.items()
            },
            partial_restore=True,
        )
        restored = manager.restore(manager.latest_step(), args=ocp.args.Composite(state=restore))
        return restored["state"]
    finally:
        manager.close()
