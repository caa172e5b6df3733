"""Stopping on request: SIGTERM, which schedulers send before they take a machine, and Ctrl-C.

A stage is broken off where it is, and goes on from its files. Training defers that: it finishes a
step, writes a checkpoint, and stops then. In a run of several processes the notice to one reaches
all, and they stop after the same step (jax's preemption service, as orbax asks it).
"""

import _thread
import contextlib
import itertools
import logging
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

log = logging.getLogger(__name__)

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: the same command goes on
EXIT_CODE_BY_HAND = 130  # Ctrl-C, as shells have it

_NOTICE = "RECEIVED_PREEMPTION_NOTICE"  # where jax's preemption service says so to all processes
_POLL = 1.0  # seconds
_calls = itertools.count(1)  # of `reached`: the same in all processes
_several = False  # processes in this run
_request: signal.Signals | None = None
_deferrals = 0
_lost = False  # whether Stopped was raised where nothing takes it
_program: subprocess.Popen | None = None  # that this one has started and waits for


class Stopped(BaseException):
    """The run stops because it was asked to; what it had is kept."""


def listen() -> None:
    """Takes SIGTERM and Ctrl-C from here on; called before jax.distributed.initialize."""
    signal.signal(signal.SIGTERM, _receive)
    signal.signal(signal.SIGINT, _receive)
    sys.unraisablehook = _raise_again


def _raise_again(lost: Any) -> None:
    """Stops a little later where Stopped met code whose errors Python drops (jax's at each gc)."""
    global _lost
    if lost.exc_type is Stopped:
        _lost = True
        threading.Timer(_POLL / 10, _thread.interrupt_main, [signal.SIGTERM]).start()
    else:
        sys.__unraisablehook__(lost)


@contextlib.contextmanager
def listening_to_all() -> Iterator[None]:
    """While it is open, takes what reaches any process of the run too.

    Opened after jax.distributed.initialize, which has put its own handler of SIGTERM in the place
    of ours.
    """
    from jax._src import distributed

    global _several
    _several = True
    client: Any = distributed.global_state.client
    closed = threading.Event()

    def look() -> None:
        while not closed.wait(_POLL):
            with contextlib.suppress(Exception):  # there is none; or the run has failed
                client.key_value_try_get(_NOTICE)
                _thread.interrupt_main(signal.SIGTERM)
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        closed.set()
        thread.join()  # a thread in jax's client when Python ends is an abort


def _receive(number: int, frame: Any) -> None:
    global _request, _lost
    if number == signal.SIGINT and _request:
        raise KeyboardInterrupt
    if _request and not _lost:  # twice: to this process, and to all of its group
        return
    _lost = False
    _request = _request or signal.Signals(number)
    if _program:
        _program.terminate()  # it says the rest
        return
    if not _deferrals:
        _stop()
    log.warning("%s: stopping, with a checkpoint. Ctrl-C: at once", _request.name)
    if number == signal.SIGINT and _several:
        os.kill(os.getpid(), signal.SIGTERM)  # which jax tells the other processes


def _stop() -> None:
    end_workers()  # or a pool would wait for its work
    raise Stopped


def check() -> None:
    """Raises Stopped where the run is to stop."""
    if _request:
        _stop()


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """While it is open a request only shows in `reached`; it is obeyed at the end at the latest."""
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
    """Inside `deferred`, work that may be broken off anywhere.

    Not in a run of several processes, where the others wait for this one at the step to stop at.
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


def reached(checkpoints: Any) -> bool:
    """Whether to stop after this step; asked after each, and the same in all processes.

    `checkpoints` knows `reached_preemption(count)`, as orbax's manager.
    """
    if _several:
        return checkpoints.reached_preemption(next(_calls))
    return _request is not None


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """The exit code of a program of ours; a request to stop goes to it too, and is obeyed after it.

    Raises Stopped as well where the program alone was asked to. Ctrl-C of a terminal reaches it by
    itself, before the SIGTERM from here, which then changes nothing.
    """
    global _program
    with deferred(), subprocess.Popen(command, env=environment) as program:
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
        raise Stopped
    return code


def exit_code() -> int:
    """What the process that stopped ends with."""
    return EXIT_CODE_BY_HAND if _request == signal.SIGINT else EXIT_CODE


def in_worker() -> Callable[[int, int], None] | None:
    """What a worker process of this one does at first: leave to it the signals that reach both.

    For workers that are needed until this process has stopped; None where it does not listen.
    """
    return _ignore if signal.getsignal(signal.SIGTERM) is _receive else None


def _ignore(*_: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def end_workers() -> None:
    """Ends the worker processes of this one: what they write is whole or not there."""
    for child in multiprocessing.active_children():
        child.kill()


def command() -> str:
    """The command line of this process, to be given again."""
    words = sys.orig_argv
    scripts = [i for i, word in enumerate(words[:2]) if os.path.basename(word) == "vcjax"]
    if scripts:  # the interpreter stands before the script
        words = ["vcjax", *words[scripts[0] + 1 :]]
    return shlex.join(words)
