"""Runs of several processes, on one or more machines, that share one folder."""

import itertools
import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from vcjax.runtime import preemption

T = TypeVar("T")

_POLL = 1000  # milliseconds; a blocking call of jax handles no signals, so it must be short
_count = itertools.count()  # calls of `run_on_primary`, equal in all processes
_waiting = False  # True in the first process while the other processes wait for its work


class FirstProcessError(ValueError):
    """Work of the first process failed; that process reports the reason."""


def is_primary() -> bool:
    """Return True in the process with index 0, the only one that writes files."""
    return jax.process_index() == 0


def coordination() -> Any:
    """Return JAX's state of a run of several processes: `client` and `coordinator_address`.

    The client has the key-value store of the processes, for which JAX has no public interface.
    """
    from jax._src import distributed

    return distributed.global_state


def run_on_primary(work: Callable[[], T]) -> T:
    """Run `work` in the first process only and return its result in every process.

    The other processes wait. Calls may be nested: within `work`, a call runs its own work directly.

    Args:
      work: a function whose result can be stored as JSON.

    Raises:
      FirstProcessError: in the other processes, if `work` raised an error.
      preemption.StopRequested: in all processes, if the first one stopped on request.
    """
    global _waiting
    if jax.process_count() == 1 or _waiting:
        return work()
    # A key-value store, since collectives of the devices time out when the work takes hours.
    client = coordination().client
    key = f"vcjax/run_on_primary/{next(_count)}"
    if not is_primary():
        outcome = json.loads(_wait(client, key))
        if "stopped" in outcome:
            raise preemption.StopRequested
        if "error" in outcome:
            raise FirstProcessError(f"the first process failed: {outcome['error']}")
        return outcome["result"]
    _waiting = True
    try:
        result = work()
    except preemption.StopRequested:
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
    while True:  # without a limit: the first process may extract trajectories for days
        try:
            return client.blocking_key_value_get(key, _POLL)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
