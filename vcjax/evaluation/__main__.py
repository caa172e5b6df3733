"""Command line of the evaluation: the paper's tables, its claim over several seeds, the explorer.

python -m vcjax.evaluation tables [--runs RUNS] [--only 1 figure4]
python -m vcjax.evaluation claim --config=configs/claim.py:rendered --workdir=runs/claim
python -m vcjax.evaluation explore RUN [OTHER_RUN] --out FILE.html
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vcjax.evaluation import paper_tables


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run its subcommand. Exit with a one-line message on an error."""
    parser = argparse.ArgumentParser(prog="python -m vcjax.evaluation")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    tables = commands.add_parser("tables", help="print the paper's tables with our results")
    tables.add_argument(
        "--runs", type=Path, default=Path("runs/paper"), help="folder that contains the runs"
    )
    names = [table.name for table in paper_tables.TABLES]
    tables.add_argument(
        "--only", nargs="+", choices=names, default=names, help="tables to print (default: all)"
    )
    tables.set_defaults(run=_tables)

    claimed = commands.add_parser(
        "claim",
        help="train a config with several seeds and compare motion with scene",
        epilog="Arguments after -- are passed to vcjax.main, such as --config.epochs_scale=0.5. "
        "SIGTERM (exit code 75) and Ctrl-C (exit code 130) stop the run after it writes a "
        "checkpoint; a second Ctrl-C stops it immediately. Rerun the same command to resume.",
    )
    claimed.add_argument(
        "--config", required=True, help="config file, such as configs/claim.py:rendered"
    )
    claimed.add_argument(
        "--workdir", type=Path, required=True, help="folder for the runs, one subfolder per seed"
    )
    claimed.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    claimed.add_argument(
        "--join", type=Path, nargs="+", default=[], help="manifests to merge into one training set"
    )
    claimed.add_argument(
        "--claims",
        nargs=2,
        action="append",
        metavar=("MOTION", "SCENE"),
        default=[],
        help="label columns to compare (default: motion scene); with --join each is 'FILE COLUMN'",
    )
    claimed.add_argument("overrides", nargs="*", help=argparse.SUPPRESS)
    claimed.set_defaults(run=_claim)

    explore = commands.add_parser(
        "explore", help="write a self-contained HTML page of one run, or of two side by side"
    )
    explore.add_argument(
        "workdirs", type=Path, nargs="+", help="folders of one or two evaluated runs"
    )
    explore.add_argument("--out", type=Path, required=True, help="HTML file to write")
    explore.set_defaults(run=_explore)

    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"vcjax.evaluation: {error}")


def _tables(options: argparse.Namespace) -> None:
    chosen = [table for table in paper_tables.TABLES if table.name in options.only]
    print(paper_tables.render(options.runs, chosen))


def _claim(options: argparse.Namespace) -> None:
    # imported late, for a fast --help
    from vcjax.evaluation import claim
    from vcjax.runtime import preemption

    workdir = options.workdir.absolute()
    workdir.mkdir(parents=True, exist_ok=True)
    overrides = list(options.overrides)
    if options.join:
        claim.join(options.join, workdir / "joined.tsv")
        overrides.append(f"--config.data.manifest={workdir / 'joined.tsv'}")
    claims = [claim.Claim(*pair) for pair in options.claims] or [claim.Claim("motion", "scene")]
    labels = tuple(dict.fromkeys(label for pair in claims for label in pair))
    if not any("config.evaluation.labels" in override for override in overrides):
        overrides.append(f"--config.evaluation.labels={labels}")
    preemption.listen()
    try:
        folders = claim.train(options.config, options.seeds, workdir, overrides=overrides)
        print(claim.report(folders, claims, workdir))
    except (preemption.StopRequested, KeyboardInterrupt):
        print(
            f"vcjax.evaluation: stopped. To resume, run:\n  {preemption.command()}",
            file=sys.stderr,
        )
        sys.exit(preemption.exit_code())


def _explore(options: argparse.Namespace) -> None:
    from vcjax.evaluation.pages import explorer

    if len(options.workdirs) > 2:
        raise ValueError(f"explore takes one or two runs, got {len(options.workdirs)}")
    explorer.write(options.workdirs, options.out)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
