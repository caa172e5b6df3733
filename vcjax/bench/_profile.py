"""Which kernels of a compiled program take the time, from JAX's profiler."""

import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

_AROUND_OTHERS = ("while", "call", "conditional")  # what is in them is counted itself


class Kernel(NamedTuple):
    """One of a program's kernels."""

    name: str
    source: str  # what it computes, as the program calls it
    share: float  # of the time of all kernels


def largest(
    run: Callable[[], Any], program: jax.stages.Compiled, *, number: int = 3
) -> list[Kernel]:
    """The `number` kernels that take most of the time of `run`, which runs `program` once."""
    jax.block_until_ready(run())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(run())
        nanoseconds = _durations(next(Path(folder).rglob("*.xplane.pb")))
    sources, total = _sources(program), sum(nanoseconds.values())
    return [
        Kernel(name, sources.get(operation, operation), spent / total)
        for (name, operation), spent in nanoseconds.most_common(number)
    ]


def _durations(profile: Path) -> Counter[tuple[str, str]]:
    """Nanoseconds by name of the kernel and of its operation."""
    found: Counter[tuple[str, str]] = Counter()
    for plane in jax.profiler.ProfileData.from_file(str(profile)).planes:
        for line in plane.lines:
            for event in line.events:
                operation = dict(event.stats).get("hlo_op")
                if operation and not event.name.startswith(("end:", *_AROUND_OTHERS)):
                    found[event.name, str(operation)] += event.duration_ns
    return found


def _sources(program: jax.stages.Compiled) -> dict[str, str]:
    """Of each operation, the last parts of the path that JAX gives it."""
    pattern = re.compile(r'%?([\w.-]+) = .*op_name="([^"]*)"')
    paths = (match.groups() for match in pattern.finditer(program.as_text() or ""))
    return {name: "/".join(path.split("/")[-2:]) for name, path in paths}
