r"""The pipeline, from a folder of videos to trained and evaluated representations.

    python -m vcjax.main --config=configs/la_idt.py:rendered --workdir=runs/rendered

The command runs the stages listed in the config, in order, each in its folder WORKDIR/STAGE. When
the command runs again, it skips stages that are complete for the same settings, redoes stages that
depend on a changed setting, and resumes an interrupted stage from its last checkpoint.

For your own videos, pass a folder or a TSV/CSV file with a `path` column:

    python -m vcjax.main --config=configs/la_idt.py:folder \
        --config.data.manifest=videos.tsv --workdir=runs/mine

Variants (after the colon): rendered, folder, smoke, released. Without a variant, the settings are
the values of the paper. --config.KEY=VALUE overrides any setting, for example
--config.epochs_scale=0.1, --config.data.on_error=skip, --config.seed=1; --help lists every setting.

Exit codes: 0 success; 1 an error, explained in one line; 75 stopped by SIGTERM or by the death of
another process of the run (the same command resumes); 130 stopped by Ctrl-C. On SIGTERM and on
Ctrl-C, training finishes its current step and writes a checkpoint; a second Ctrl-C stops at once.
"""

import contextlib
import errno
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from vcjax import settings
from vcjax.runtime import extras, preemption, xla_flags
from vcjax.runtime.config_flags import parse
from vcjax.settings import validation

FLAGS = flags.FLAGS
_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Experiment: FILE.py[:VARIANT].", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Output folder of this run.", required=True)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Join a run of several processes that share --workdir, on one or more machines. Slurm, TPU "
    "pods and TPU slices on GKE are detected; elsewhere, set --coordinator, --num_processes and "
    "--process_id.",
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of the first process.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes of the run.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Index of this process, from 0.")
_STAGES = flags.DEFINE_list("stages", [], "Run only these stages, e.g. ir,la (default: all).")

log = logging.getLogger("vcjax")


def main(arguments: list[str]) -> None:
    """Run the stages of --config in --workdir."""
    if len(arguments) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(arguments[1:])}")
    if _CONFIG.value is None:
        sys.exit("vcjax: --config is required, for example --config=la_idt.py:rendered; see --help")
    _log_to_standard_error()
    xla_flags.set_defaults()
    preemption.listen()
    preemption.end_if_blocked()
    try:
        with (
            extras.explained(),
            _joined() if _DISTRIBUTED.value else contextlib.nullcontext(),
        ):
            _run(Path(_WORKDIR.value).absolute())
            return
    except (preemption.StopRequested, KeyboardInterrupt):
        pass  # left below, after the frames of the exception and their progress bars are gone
    except (ValueError, FloatingPointError, OSError) as error:
        log.debug("traceback", exc_info=True)
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = f"; free space for {_WORKDIR.value}, then resume with the same command"
        sys.exit(f"vcjax: {error}{advice if full else ''}")
    finally:
        preemption.end_workers()
    import jax

    jax.distributed.shutdown()
    preemption.leave(preemption.exit_code())


def _run(workdir: Path) -> None:
    validation.check(_CONFIG.value)
    devices = xla_flags.devices()
    # imported late: --help and an invalid setting should not wait for the pipeline
    from vcjax.pipeline import build
    from vcjax.runtime import compilation, stage_cache

    stages = build.build(_CONFIG.value, workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    compilation.report()
    compilation.cache_in(workdir / "compiled")
    log.info("devices: %s%s", ", ".join(map(str, devices)), _training(devices[0].platform))
    stage_cache.run(stages, workdir, only=_STAGES.value, keep_previous=_CONFIG.value.keep_previous)


def _training(platform: str) -> str:
    """Return the forms in which networks are computed, or "" if the config trains none."""
    config = _CONFIG.value
    if not {*settings.TRAINING_STAGES, *settings.FINETUNING_STAGES}.intersection(config.stages):
        return ""
    from vcjax.data import clips
    from vcjax.models import conv3d
    from vcjax.runtime import activation_dtype

    num_threads = config.data.num_threads or clips.default_threads(config.data.num_workers)
    return (
        f"; activations in {activation_dtype.resolve(config.model.dtype)}; "
        f"{conv3d.forms(platform)}; {num_threads} threads read clips"
    )


@contextlib.contextmanager
def _joined() -> Iterator[None]:
    """Make this process a member of the distributed run while the context is open."""
    import jax
    from jax.experimental import multihost_utils

    from vcjax.runtime import hosts, peer_watchdog

    jax.distributed.initialize(
        _COORDINATOR.value,
        _NUM_PROCESSES.value,
        _PROCESS_ID.value,
        heartbeat_timeout_seconds=peer_watchdog.HEARTBEAT_TIMEOUT,
    )
    with preemption.listening_to_all(hosts.coordination().client), peer_watchdog.watched():
        # Connect the devices now: later, one process may wait for another beyond the timeout.
        multihost_utils.sync_global_devices("vcjax")
        log.info("process %d of %d", jax.process_index(), jax.process_count())
        yield


def _log_to_standard_error() -> None:
    """Log messages of vcjax to standard error, and only warnings of other libraries."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if FLAGS.debug else logging.INFO)
    log.propagate = False


flags.DEFINE_bool("debug", False, "Log tracebacks of errors and debug messages.")


def _parse(arguments: list[str]) -> list[str]:
    """Parse the flags, or print every setting and exit for --help."""
    if _HELP.intersection(arguments[1:]):
        from vcjax.settings import description

        print(f"{__doc__}\nFlags:\n{FLAGS.main_module_help()}\n\n{description.describe()}")
        sys.exit()
    return parse(arguments, describe_unknown=validation.unknown)


_HELP = {"-h", "-help", "--help", "--helpshort", "--helpfull"}

if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
