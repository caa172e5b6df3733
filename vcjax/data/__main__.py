"""Prepare videos for a run: scan a folder, show clips as the network sees them, write shards.

python -m vcjax.data scan ROOT [--lists DIR] [--split N] [--out manifest.tsv]
python -m vcjax.data show MANIFEST OUT.png
python -m vcjax.data prepare MANIFEST OUT [--side 128] [--codec jpeg]
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from vcjax.runtime import extras

# Each command is a module of this package with `add_arguments(parser)` and `run(options)`.
COMMANDS = {
    "scan": "recognize the data set in a folder and write its manifest",
    "show": "draw a sheet of clips as the network sees them",
    "prepare": "encode every video once into shards that training reads fast",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit with a one-line message if it fails."""
    parser = argparse.ArgumentParser(
        prog="python -m vcjax.data", description=__doc__.splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, summary in COMMANDS.items():
        module = importlib.import_module(f"vcjax.data.{name}")
        command = commands.add_parser(name, help=summary, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    try:
        with extras.explained():
            options.run(options)
    except (ValueError, OSError) as error:
        sys.exit(f"vcjax.data: {error}")


if __name__ == "__main__":
    main()
