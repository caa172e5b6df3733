"""The experiment that a command line names, and the settings that it changes.

Those of `configs/` are in a checkout at its top, in a wheel in the package.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

_CONFIGS = Path(__file__).parent.parent / "configs"  # a link to the checkout's, files in a wheel


def find(config: str) -> str:
    """`config`, FILE.py[:VARIANT], with FILE's path where it is not there but comes with vcjax.

    Both `la_idt.py:rendered` and `configs/la_idt.py:rendered` mean the one that comes with vcjax.
    """
    file, colon, variant = config.partition(":")
    path = Path(file)
    if path.exists() or path.parent.name not in ("", "configs") or path.is_absolute():
        return config
    known = _CONFIGS / path.name
    return f"{known}{colon}{variant}" if known.exists() else config


def find_in_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line in which `--config=FILE` and `--config FILE` are found by `find`."""
    found = []
    for last, argument in zip(["", *arguments], arguments, strict=False):
        flag, equals, value = argument.partition("=")
        if equals and flag in ("--config", "-config"):
            argument = f"{flag}={find(value)}"
        elif last in ("--config", "-config"):
            argument = find(argument)
        found.append(argument)
    return found


def parse(arguments: Sequence[str], known: flags.FlagValues = flags.FLAGS) -> list[str]:
    """What is left of a command line without its flags; ends with one line on a wrong one."""
    try:
        return known(find_in_arguments(arguments))
    # config files are programs, and raise whatever they do
    except Exception as error:
        sys.exit(f"vcjax: {_reason(error, arguments)}; see --help")


def _reason(error: Exception, arguments: Sequence[str]) -> str:
    """One line that names what on the command line is wrong."""
    reason = str(error).strip() or type(error).__name__
    if isinstance(error, AttributeError):  # of ml_collections for an unknown setting
        names = re.findall(r"\w+", reason.replace("\\n", " "))
        keys = [argument.partition("=")[0] for argument in arguments]
        unknown = [key for key in keys if names and names[0] in key.split(".")]
        return f"there is no setting {unknown[0] if unknown else reason}"
    if "Traceback" in reason:  # of a config file, whose last line says what it is
        reason = f"{reason.partition(': ')[0]}: {reason.splitlines()[-1].partition(': ')[2]}"
    return " ".join(reason.split())
