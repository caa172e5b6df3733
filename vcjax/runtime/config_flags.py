"""Resolution of `--config` on the command line, and one-line messages for invalid flags.

The experiments of `configs/` are at the top of a checkout and inside the package in a wheel.
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

_CONFIGS = Path(__file__).parents[1] / "configs"  # a link in a checkout, a folder in a wheel
_FLAGS = ("--config", "-config")


def find(config: str) -> str:
    """Return `config`, FILE.py[:VARIANT], with the path of the experiment that vcjax provides.

    Both `la_idt.py:rendered` and `configs/la_idt.py:rendered` select the provided experiment. A
    file that exists takes precedence: then, and if vcjax has no such experiment, `config` is
    returned unchanged.
    """
    file, colon, variant = config.partition(":")
    path = Path(file)
    if path.exists() or path.parent.name not in ("", "configs") or path.is_absolute():
        return config
    provided = _CONFIGS / path.name
    return f"{provided}{colon}{variant}" if provided.exists() else config


def find_in_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the command line with the value of `--config` resolved by `find`."""
    resolved = []
    for last, argument in zip(["", *arguments], arguments, strict=False):
        flag, equals, value = argument.partition("=")
        if equals and flag in _FLAGS:
            argument = f"{flag}={find(value)}"
        elif last in _FLAGS:
            argument = find(argument)
        resolved.append(argument)
    return resolved


def parse(
    arguments: Sequence[str],
    flag_values: flags.FlagValues = flags.FLAGS,
    *,
    describe_unknown: Callable[[str], str] = "there is no setting {}".format,
) -> list[str]:
    """Parse the flags and return the remaining arguments.

    Exit with a one-line message if a flag is invalid. `describe_unknown` returns the message for
    the flag of an unknown setting.
    """
    try:
        if missing := _missing_file(arguments):
            raise FileNotFoundError(f"--config: no such file: {missing}")
        return flag_values(find_in_arguments(arguments))
    except Exception as error:  # config files are programs and may raise any exception
        sys.exit(f"vcjax: {_reason(error, arguments, describe_unknown)}; see --help")


def _missing_file(arguments: Sequence[str]) -> str:
    """Return the file of `--config` that does not exist and is not provided either, or ""."""
    for last, argument in zip(["", *arguments], find_in_arguments(arguments), strict=False):
        flag, equals, value = argument.partition("=")
        value = value if equals and flag in _FLAGS else argument if last in _FLAGS else ""
        file = value.partition(":")[0]
        if file and not Path(file).is_file():
            provided = ", ".join(sorted(path.name for path in _CONFIGS.glob("*.py")))
            return f"{Path(file).absolute()} (provided by vcjax: {provided})"
    return ""


def _reason(
    error: Exception, arguments: Sequence[str], describe_unknown: Callable[[str], str]
) -> str:
    """Return one line that names the invalid argument."""
    reason = str(error).strip() or type(error).__name__
    if isinstance(error, AttributeError):  # raised by ml_collections for an unknown setting
        names = re.findall(r"\w+", reason.replace("\\n", " "))
        keys = [argument.partition("=")[0] for argument in arguments]
        unknown = [key for key in keys if names and names[0] in key.split(".")]
        return describe_unknown(unknown[0]) if unknown else f"there is no setting {reason}"
    if "Traceback" in reason:  # an error in a config file, whose last line has the message
        reason = f"{reason.partition(': ')[0]}: {reason.splitlines()[-1].partition(': ')[2]}"
    return " ".join(reason.split())
