"""Several processes, on one machine or many, as one run with one folder that all of them see."""

import itertools
import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from vcjax.runtime import preemption

T = TypeVar("T")

_POLL = 1000  # milliseconds, after which Python sees signals
_count = itertools.count()  # the same in all processes, which do the same in the same order
_waiting = False  # whether the others wait for what this process does


class FirstProcessError(ValueError):
    """What the first process had to do failed there; it says why itself."""


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def on_first(work: Callable[[], T]) -> T:
    """What `work` returns, which JSON holds, done by the first process while the others wait.

    An error of the first is a FirstProcessError in the others; where it stops on request, so do
    they, by interruption.Stopped. Within `work` the others wait already.
    """
    global _waiting
    if jax.process_count() == 1 or _waiting:
        return work()
    # not a collective of the devices: these give up on hours of waiting
    from jax._src import distributed

    client: Any = distributed.global_state.client
    key = f"vcjax/on_first/{next(_count)}"
    if not is_first():
        told = json.loads(_wait(client, key))
        if "stopped" in told:
            raise preemption.Stopped
        if "error" in told:
            raise FirstProcessError(f"the first process failed: {told['error']}")
        return told["result"]
    _waiting = True
    try:
        result = work()
    except preemption.Stopped:
        client.key_value_set(key, json.dumps({"stopped": True}))
        raise
    except BaseException as error:
        client.key_value_set(key, json.dumps({"error": str(error) or type(error).__name__}))
        raise
    finally:
        _waiting = False
    client.key_value_set(key, json.dumps({"result": result}))
    return result


def _wait(client: Any, key: str) -> str:
    while True:  # the first process may extract for days
        try:
            return client.blocking_key_value_get(key, _POLL)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
