"""Videos before a run: find them, look at them, encode them once.

python -m vcjax.data scan ROOT [--lists DIR] [--split N] [--out manifest.tsv]
python -m vcjax.data show MANIFEST OUT.png
python -m vcjax.data prepare MANIFEST OUT [--side 128] [--codec jpeg]
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

# Each is a module beside this file, with `add_arguments(parser)` and `run(options)`.
COMMANDS = {
    "scan": "find the data set in a folder and write its manifest",
    "show": "a sheet of clips as the network sees them",
    "prepare": "encode every video once, to shards that training reads fast",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Does what the command line says."""
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
        options.run(options)
    except (ValueError, OSError) as error:
        sys.exit(f"vcjax.data: {error}")


if __name__ == "__main__":
    main()
