"""Compilations by XLA: a persistent cache of their results, a log line, and their freed memory."""

import contextlib
import ctypes
import logging
import os
import threading
from pathlib import Path

import jax

log = logging.getLogger(__name__)

_BEGIN = "/jax/core/compile/jaxpr_to_mlir_module_duration"  # recorded right before XLA compiles
_END = "/jax/core/compile/backend_compile_duration"
_LONG = 5.0  # seconds of a compilation before the log line
_LARGE = 1.0  # seconds of a compilation after which freed memory is returned
_running: threading.Timer | None = None  # the pending log line of the compilation in progress


def cache_in(directory: Path) -> None:
    """Keep compiled programs in `directory`, from which a restarted run loads them.

    JAX's environment variable JAX_COMPILATION_CACHE_DIR has precedence; an empty value disables the
    cache. A folder that cannot be written is not used.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning("compiled programs are not kept: %s", error)
        return
    if os.access(directory, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(directory))


def report() -> None:
    """Log a line during a long compilation, and return its freed memory to the system after it."""
    jax.monitoring.register_event_duration_secs_listener(_on_event)


def is_running() -> bool:
    """Return True while XLA compiles, if `report` was called."""
    return _running is not None


def _on_event(event: str, duration_secs: float, **metadata: str | int) -> None:
    global _running
    if event not in (_BEGIN, _END):
        return
    if _running:
        _running.cancel()
        _running = None
    if event == _BEGIN:
        name = str(metadata.get("fun_name", "")).removeprefix("jit(").removesuffix(")")
        _running = threading.Timer(_LONG, log.info, ("compiling %s", name))
        _running.daemon = True
        _running.start()
    elif duration_secs > _LARGE:
        _return_freed_memory()


def _return_freed_memory() -> None:
    """Return memory that was freed to the operating system, if the C library is glibc.

    Otherwise a few hundred megabytes that XLA used to compile remain in the process.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
