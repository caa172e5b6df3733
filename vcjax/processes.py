"""Several processes, on one machine or many, as one run with one folder that all of them see."""

import itertools
import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax

T = TypeVar("T")

_PATIENCE = 30 * 24 * 3600 * 1000  # milliseconds: the first process may extract for days
_count = itertools.count()  # the same in all processes, which do the same in the same order


class FirstProcessError(ValueError):
    """What the first process had to do failed there; it says why itself."""


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def on_first(work: Callable[[], T]) -> T:
    """What `work` returns, which JSON holds, done by the first process while the others wait.

    An error of the first is a FirstProcessError in the others.
    """
    if jax.process_count() == 1:
        return work()
    # not a collective of the devices: these give up on hours of waiting
    from jax._src import distributed

    client: Any = distributed.global_state.client
    key = f"vcjax/on_first/{next(_count)}"
    if not is_first():
        told = json.loads(client.blocking_key_value_get(key, _PATIENCE))
        if "error" in told:
            raise FirstProcessError(f"the first process failed: {told['error']}")
        return told["result"]
    try:
        result = work()
    except BaseException as error:
        client.key_value_set(key, json.dumps({"error": str(error) or type(error).__name__}))
        raise
    client.key_value_set(key, json.dumps({"result": result}))
    return result
