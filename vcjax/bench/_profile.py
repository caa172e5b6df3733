"""Time spent per kernel of a compiled program, from JAX's profiler."""

import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

_AROUND_OTHERS = ("while", "call", "conditional")  # their contents are counted separately


class Kernel(NamedTuple):
    """A kernel of a compiled program."""

    name: str
    source: str  # operation of the JAX program that it computes
    share: float  # of the time of all kernels, in [0, 1]


def largest(
    run: Callable[[], Any], program: jax.stages.Compiled, *, number: int = 3
) -> list[Kernel]:
    """Return the `number` kernels that take the most time in `run`, which runs `program` once."""
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
    """Return nanoseconds by (name of the kernel, name of its operation)."""
    durations: Counter[tuple[str, str]] = Counter()
    for plane in jax.profiler.ProfileData.from_file(str(profile)).planes:
        for line in plane.lines:
            for event in line.events:
                operation = dict(event.stats).get("hlo_op")
                if operation and not event.name.startswith(("end:", *_AROUND_OTHERS)):
                    durations[event.name, str(operation)] += event.duration_ns
    return durations


def _sources(program: jax.stages.Compiled) -> dict[str, str]:
    """Return the last two parts of the JAX path of each operation, by its name."""
    pattern = re.compile(r'%?([\w.-]+) = .*op_name="([^"]*)"')
    paths = (match.groups() for match in pattern.finditer(program.as_text() or ""))
    return {name: "/".join(path.split("/")[-2:]) for name, path in paths}
