"""Times our code beside a named peer, in the same run on the same machine.

    python -m vcjax.bench NAME [--json FILE]

NAME is one of the modules beside this file, or `all`. Each has `cases()`, which yields dicts of

    name, case, device   what was timed, and on what
    ours_s               median seconds
    peer, peer_s, ratio  who else, median seconds, ours_s / peer_s
    floor_s, fraction    what the device could do at best, and floor_s / ours_s
    kernels              where it was profiled: the three that take most of the time
"""

import argparse
import importlib
import json
import pkgutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vcjax import bench

KEYS = ("name", "case", "device", "ours_s", "peer", "peer_s", "ratio", "floor_s", "fraction")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmarks that the command line names; prints a table, and JSON lines to a file."""
    known = sorted(m.name for m in pkgutil.iter_modules(bench.__path__) if m.name != "__main__")
    known = [name for name in known if not name.startswith("_")]
    parser = argparse.ArgumentParser(
        prog="python -m vcjax.bench", description=__doc__.split("\n")[0] if __doc__ else ""
    )
    parser.add_argument("name", choices=[*known, "all"], help="what to time")
    parser.add_argument("--json", type=Path, help="file for one JSON line a case")
    options = parser.parse_args(arguments)
    print(_row(dict.fromkeys(KEYS) | {k: k for k in KEYS}), flush=True)
    lines = []
    for case in _cases(known if options.name == "all" else [options.name]):
        print("\n".join([_row(case), *_kernels(case)]), flush=True)
        lines.append(json.dumps({k: case.get(k) for k in KEYS} | case) + "\n")
    if options.json:
        options.json.write_text("".join(lines))


def _cases(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for name in names:
        yield from importlib.import_module(f"vcjax.bench.{name}").cases()


def _row(case: dict[str, Any]) -> str:
    widths = dict(zip(KEYS, (9, 44, 8, 10, 26, 10, 7, 10, 8), strict=True))
    return " ".join(_cell(case.get(k)).ljust(w) for k, w in widths.items())


def _kernels(case: dict[str, Any]) -> Iterator[str]:
    for kernel in case.get("kernels", ()):
        yield f"{'':9} {kernel['share']:5.1%} of the time in {kernel['name']}, {kernel['source']}"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
