"""From a folder of videos to learned representations, in one command.

    python -m vcjax.main --config=configs/la_idt.py:rendered --workdir=runs/rendered

runs the stages that the config lists, in order, each into WORKDIR/STAGE. Run again, it skips what
is complete for the same settings, redoes what changed settings touch, and continues what was
interrupted from its last checkpoint.

Your own videos, from a folder or a TSV/CSV with a `path` column:

    python -m vcjax.main --config=configs/la_idt.py:folder \\
        --config.data.manifest=videos.tsv --workdir=runs/mine

Variants (behind the colon): rendered, folder, smoke, released; none: the paper's values. Any
setting can be given as --config.KEY=VALUE, for instance --config.epochs_scale=0.1,
--config.data.on_missing=skip, --config.seed=1; vcjax/settings/defaults.py says what each means.

Exit codes: 0 done; 1 an error, which one line explains; 75 stopped by SIGTERM, or because another
process of the run died: the same command goes on; 130 stopped by Ctrl-C. At SIGTERM and Ctrl-C
training finishes its step and writes a checkpoint; a second Ctrl-C stops at once.
"""

import contextlib
import errno
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
from absl import app, flags
from absl import logging as absl_logging
from jax.experimental import multihost_utils
from ml_collections import config_flags

from vcjax.pipeline import build
from vcjax.runtime import peer_watchdog, preemption, stage_cache
from vcjax.runtime.config_flags import parse

FLAGS = flags.FLAGS
_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Experiment, FILE.py[:VARIANT].", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run.", required=True)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "This process is one of several of the run, on as many machines; they share --workdir. On "
    "Slurm, TPU pods and GKE they find one another, else the three flags below say where.",
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of the first process.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
_STAGES = flags.DEFINE_list("stages", [], "Only these stages, such as ir,la (default: all).")

log = logging.getLogger("vcjax")


def main(arguments: list[str]) -> None:
    """Runs the stages of --config into --workdir."""
    if len(arguments) > 1:
        raise app.UsageError(f"not understood: {' '.join(arguments[1:])}")
    if _CONFIG.value is None:
        raise app.UsageError("--config is required, for instance configs/la_idt.py:rendered")
    _log_to_standard_error()
    preemption.listen()
    try:
        with _joined() if _DISTRIBUTED.value else contextlib.nullcontext():
            _run(Path(_WORKDIR.value).absolute())
            return
    except (preemption.Stopped, KeyboardInterrupt):
        pass  # said when its frames and with them the progress bars are gone
    except (ValueError, FloatingPointError, OSError) as error:
        log.debug("traceback", exc_info=True)
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        again = f"; make space for {_WORKDIR.value}, and the same command goes on" if full else ""
        sys.exit(f"vcjax: {error}{again}")
    finally:
        preemption.end_workers()
    log.warning("vcjax: stopped. This goes on from here:\n  %s", preemption.command())
    sys.exit(preemption.exit_code())


def _run(workdir: Path) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    log.info("devices: %s", ", ".join(str(d) for d in jax.local_devices()))
    stage_cache.run(build.build(_CONFIG.value, workdir), workdir, only=_STAGES.value)


@contextlib.contextmanager
def _joined() -> Iterator[None]:
    """While it is open, this process is one of those of the run."""
    jax.distributed.initialize(
        _COORDINATOR.value,
        _NUM_PROCESSES.value,
        _PROCESS_ID.value,
        heartbeat_timeout_seconds=peer_watchdog.HEARTBEAT_TIMEOUT,
    )
    with preemption.listening_to_all(), peer_watchdog.watched():
        # connects their devices now, while no process has to wait long for another
        multihost_utils.sync_global_devices("vcjax")
        log.info("process %d of %d", jax.process_index(), jax.process_count())
        yield


def _log_to_standard_error() -> None:
    """Our own messages, plainly; of the libraries only warnings."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if FLAGS.debug else logging.INFO)
    log.propagate = False


flags.DEFINE_bool("debug", False, "Show tracebacks of errors, and more messages.")

if __name__ == "__main__":
    app.run(main, flags_parser=parse)
