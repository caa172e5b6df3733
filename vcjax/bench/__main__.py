"""Time our code against a peer implementation in the same run on the same machine.

    python -m vcjax.bench NAME [--json FILE]
    python -m vcjax.bench compile [--target=v5e:2x4] [--config=...]  # see compile.py
    python -m vcjax.bench rehearsal [--num_videos=2350,23500]  # see rehearsal.py

NAME is a module in this folder, or `all`. `report` has options of its own and runs all of them on a
GPU: see `vcjax.bench.report`. Every other module has `cases()`, which yields dicts with keys

    name, case, device   the benchmark, the timed case, and the device
    ours_s               median seconds
    peer, peer_s, ratio  the peer, its median seconds, and ours_s / peer_s
    floor_s, fraction    lower bound of the device in seconds, and floor_s / ours_s
    kernels              if profiled: the three kernels that take the most time
"""

import argparse
import importlib
import json
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vcjax import bench
from vcjax.runtime import extras, xla_flags

_OWN_OPTIONS = ("compile", "rehearsal", "report")  # have a function `main` and no `cases`
KEYS = ("name", "case", "device", "ours_s", "peer", "peer_s", "ratio", "floor_s", "fraction")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmarks named on the command line; print a table and write JSON lines."""
    try:
        with extras.explained():
            _run(sys.argv[1:] if arguments is None else arguments)
    except extras.MissingExtraError as error:
        sys.exit(f"vcjax.bench: {error}")


def _run(arguments: Sequence[str]) -> None:
    if arguments and arguments[0] in _OWN_OPTIONS:
        importlib.import_module(f"vcjax.bench.{arguments[0]}").main(arguments[1:])
        return
    names = sorted(m.name for m in pkgutil.iter_modules(bench.__path__))
    names = [name for name in names if not name.startswith("_") and name not in _OWN_OPTIONS]
    parser = argparse.ArgumentParser(
        prog="python -m vcjax.bench", description=__doc__.split("\n")[0] if __doc__ else ""
    )
    parser.add_argument("name", choices=[*names, "all", *_OWN_OPTIONS], help="benchmark to run")
    parser.add_argument("--json", type=Path, help="file to write, one JSON line per case")
    options = parser.parse_args(arguments)
    xla_flags.set_defaults()
    print(_row(dict.fromkeys(KEYS) | {k: k for k in KEYS}), flush=True)
    lines = []
    for case in _cases(names if options.name == "all" else [options.name]):
        print("\n".join([_row(case), *_kernels(case)]), flush=True)
        lines.append(json.dumps({k: case.get(k) for k in KEYS} | case) + "\n")
    if options.json:
        options.json.write_text("".join(lines), "utf-8")


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
