"""Stopping on request: SIGTERM, which schedulers send before they reclaim a machine, and Ctrl-C.

Most stages are interrupted at once and later resume from their files. Training defers the request:
it finishes the current step, writes a checkpoint and then stops. In a run of several processes, a
signal to one process reaches all of them through JAX's preemption service, which orbax queries, and
all processes stop after the same step.
"""

import _thread
import contextlib
import itertools
import logging
import multiprocessing
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from vcjax.runtime import compilation

log = logging.getLogger(__name__)

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: the same command resumes the run
EXIT_CODE_BY_HAND = 130  # Ctrl-C, following the convention of shells

_NOTICE = "RECEIVED_PREEMPTION_NOTICE"  # key that JAX's preemption service sets for all processes
_POLL = 1.0  # seconds
_GRACE = 20.0  # seconds; schedulers kill a process 30 s after SIGTERM
_calls = itertools.count(1)  # calls of `stop_requested`, equal in all processes
_several = False  # True in a run of several processes
_request: signal.Signals | None = None  # the first signal received
_deferrals = 0  # number of open `defer_stop` contexts
_lost = False  # True if StopRequested was raised in code that drops exceptions
_program: subprocess.Popen | None = None  # the child program that `run` waits for


class StopRequested(BaseException):
    """The run stops on request, with its progress saved."""


def listen() -> None:
    """Install the handlers of SIGTERM and Ctrl-C. Call before jax.distributed.initialize."""
    signal.signal(signal.SIGTERM, _receive)
    signal.signal(signal.SIGINT, _receive)
    sys.unraisablehook = _raise_again
    # A process that stops leaves the semaphores of its workers to the resource tracker, which
    # removes them and would warn after the last line of the log, the one that says how to resume.
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")


def end_if_blocked() -> None:
    """End the process some seconds after a signal if the main thread cannot react to it.

    Python's handlers of signals run between two operations of the main thread, and a compilation by
    XLA is one operation that may take minutes. Ending is safe, since all files are written
    atomically. A deferred stop waits for the end of its step, unless the step is being compiled.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))

    def wait() -> None:
        with receiver, sender:
            while (number := receiver.recv(1)[0]) not in (signal.SIGTERM, signal.SIGINT):
                pass
            _end_after_grace(number)

    threading.Thread(target=wait, daemon=True).start()


def _end_after_grace(number: int) -> None:
    time.sleep(_GRACE)
    while (_request or _deferrals) and not compilation.is_running():
        time.sleep(_POLL)
    end_workers()
    leave(EXIT_CODE_BY_HAND if number == signal.SIGINT else EXIT_CODE)


def leave(code: int) -> NoReturn:
    """Log how to resume and end the process with `code`.

    The interpreter is not finalized: threads of native libraries may crash in the process.
    """
    log.warning("vcjax: stopped. To resume, run:\n  %s", command())
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _raise_again(lost: Any) -> None:
    """Repeat the request if StopRequested was raised in code whose errors Python drops.

    JAX runs such code in a callback of every garbage collection.
    """
    global _lost
    if lost.exc_type is StopRequested:
        _lost = True
        threading.Timer(_POLL / 10, _thread.interrupt_main, [signal.SIGTERM]).start()
    else:
        sys.__unraisablehook__(lost)


@contextlib.contextmanager
def listening_to_all(client: Any) -> Iterator[None]:
    """Also react to signals that other processes of the run receive, while the context is open.

    Open it after jax.distributed.initialize, which replaces the handler of SIGTERM by its own.
    `client` is the client of JAX's coordination service.
    """
    global _several
    _several = True
    closed = threading.Event()

    def look() -> None:
        while not closed.wait(_POLL):
            with contextlib.suppress(Exception):  # no notice yet, or the run has failed
                client.key_value_try_get(_NOTICE)
                _thread.interrupt_main(signal.SIGTERM)
                threading.Thread(
                    target=_end_after_grace, args=(signal.SIGTERM,), daemon=True
                ).start()
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        closed.set()
        thread.join()  # a thread inside JAX's client at interpreter exit aborts the process


def _receive(number: int, frame: Any) -> None:
    global _request, _lost
    if number == signal.SIGINT and _request:
        raise KeyboardInterrupt
    if _request and not _lost:  # a repeated signal: sent to the process and to its group
        return
    _lost = False
    _request = _request or signal.Signals(number)
    if _program:
        _program.terminate()  # the program logs that it stops
        return
    if not _deferrals:
        _stop()
    log.warning("%s: stopping after a checkpoint; press Ctrl-C to stop at once", _request.name)
    if number == signal.SIGINT and _several:
        os.kill(os.getpid(), signal.SIGTERM)  # JAX forwards SIGTERM to the other processes


def _stop() -> None:
    end_workers()  # otherwise a pool waits until its work is done
    raise StopRequested


def check() -> None:
    """Raise StopRequested if a stop was requested."""
    if _request:
        _stop()


@contextlib.contextmanager
def defer_stop() -> Iterator[None]:
    """Defer a stop while the context is open; the outermost one then raises StopRequested.

    Within the context, `stop_requested` reports the request and `interruptible` allows an immediate
    stop.
    """
    global _deferrals
    _deferrals += 1
    try:
        yield
    finally:
        _deferrals -= 1
    if not _deferrals:
        check()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Allow an immediate stop while the context is open, inside `defer_stop`.

    In a run of several processes this has no effect, since the other processes wait for this one
    at the step where all of them stop.
    """
    global _deferrals
    if _several:
        yield
        return
    check()
    deferrals, _deferrals = _deferrals, 0
    try:
        yield
    finally:
        _deferrals = deferrals


def stop_requested(checkpoints: Any) -> bool:
    """Return True if training must stop after this step. Call after every step.

    The answer is the same in all processes. `checkpoints` has a method
    `reached_preemption(count)`, like orbax's CheckpointManager.
    """
    if _several:
        return checkpoints.reached_preemption(next(_calls))
    return _request is not None


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run a vcjax program as a child process and return its exit code.

    A stop request is passed on to the child as SIGTERM, and this process stops after the child has
    ended. A terminal sends Ctrl-C to the child directly; the SIGTERM that follows has no effect.

    Raises:
      StopRequested: if a stop was requested, of this process or of the child alone.
    """
    global _program
    with defer_stop(), subprocess.Popen(command, env=environment) as program:
        _program = program
        try:
            if _request:
                program.terminate()
            code = program.wait()
        except KeyboardInterrupt:
            program.kill()
            raise
        finally:
            _program = None
    if code in (EXIT_CODE, EXIT_CODE_BY_HAND):
        raise StopRequested
    return code


def exit_code() -> int:
    """Return the exit code of a process that stopped on request."""
    return EXIT_CODE_BY_HAND if _request == signal.SIGINT else EXIT_CODE


def in_worker() -> Callable[[int, int], None] | None:
    """Return an initializer that makes a worker process ignore SIGTERM and Ctrl-C.

    It is for workers that must outlive a request until this process has stopped. Return None if
    this process has not called `listen`.
    """
    return _ignore if signal.getsignal(signal.SIGTERM) is _receive else None


def _ignore(*_: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def end_workers() -> None:
    """Kill the worker processes of this process. This is safe, since workers write atomically."""
    for child in multiprocessing.active_children():
        child.kill()


def command() -> str:
    """Return the command line that started this process, quoted for a shell."""
    words = sys.orig_argv
    scripts = [i for i, word in enumerate(words[:2]) if os.path.basename(word) == "vcjax"]
    if scripts:  # the console script, possibly preceded by the interpreter
        words = ["vcjax", *words[scripts[0] + 1 :]]
    return shlex.join(words)
