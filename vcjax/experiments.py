"""Where the experiments of `configs/` are: in a checkout at its top, in a wheel in the package."""

from collections.abc import Sequence
from pathlib import Path

_CONFIGS = Path(__file__).parent / "configs"  # a link to the checkout's, files in a wheel


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
