"""The paper's tables beside our results.

python -m vcjax.evaluation tables [--runs RUNS] [--only 1 figure4]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vcjax.evaluation import claim, paper


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the subcommand that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m vcjax.evaluation")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    tables = commands.add_parser("tables", help="the paper's tables, ours beside them")
    tables.add_argument("--runs", type=Path, default=Path("runs/paper"), help="folder of the runs")
    names = [table.name for table in paper.TABLES]
    tables.add_argument("--only", nargs="+", choices=names, default=names, help="some of them")
    tables.set_defaults(run=_tables)

    claimed = commands.add_parser(
        "claim",
        help="several seeds of a config, compared by motion and scene",
        epilog="Options behind -- go to vcjax.main, such as --config.epochs_scale=0.5. Run the "
        "same command again to go on after an interruption.",
    )
    claimed.add_argument("--config", required=True, help="such as configs/claim.py:rendered")
    claimed.add_argument("--workdir", type=Path, required=True, help="folder of the seeds' runs")
    claimed.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="0 1 2")
    claimed.add_argument(
        "--join", type=Path, nargs="+", default=[], help="manifests to train on together"
    )
    claimed.add_argument(
        "--claims",
        nargs=2,
        action="append",
        metavar=("MOTION", "SCENE"),
        default=[],
        help="label columns to compare, with --join as 'FILE COLUMN' (default: motion scene)",
    )
    claimed.add_argument("overrides", nargs="*", help=argparse.SUPPRESS)
    claimed.set_defaults(run=_claim)

    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"vcjax.evaluation: {error}")


def _tables(options: argparse.Namespace) -> None:
    chosen = [table for table in paper.TABLES if table.name in options.only]
    print(paper.render(options.runs, chosen))


def _claim(options: argparse.Namespace) -> None:
    workdir = options.workdir.absolute()
    workdir.mkdir(parents=True, exist_ok=True)
    overrides = list(options.overrides)
    if options.join:
        claim.join(options.join, workdir / "joined.tsv")
        overrides.append(f"--config.data.manifest={workdir / 'joined.tsv'}")
    claims = [claim.Claim(*pair) for pair in options.claims] or [claim.Claim("motion", "scene")]
    folders = claim.train(options.config, options.seeds, workdir, overrides=overrides)
    print(claim.report(folders, claims, workdir))


if __name__ == "__main__":
    main()
