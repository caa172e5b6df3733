"""The paper's tables beside our results.

python -m vcjax.evaluation tables [--runs RUNS] [--only 1 figure4]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vcjax.evaluation import paper


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the subcommand that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m vcjax.evaluation")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    tables = commands.add_parser("tables", help="the paper's tables, ours beside them")
    tables.add_argument("--runs", type=Path, default=Path("runs/paper"), help="folder of the runs")
    names = [table.name for table in paper.TABLES]
    tables.add_argument("--only", nargs="+", choices=names, default=names, help="some of them")
    tables.set_defaults(run=_tables)

    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        sys.exit(f"vcjax.evaluation: {error}")


def _tables(options: argparse.Namespace) -> None:
    chosen = [table for table in paper.TABLES if table.name in options.only]
    print(paper.render(options.runs, chosen))


if __name__ == "__main__":
    main()
