"""The progress bar of all commands, with rate and remaining time."""

import sys
from typing import Any

from tqdm import tqdm


def bar(iterable: Any = None, *, desc: str, unit: str, **options: Any) -> tqdm:
    """Return a progress bar on standard error, over `iterable` or advanced by `update()`.

    In a terminal the bar is redrawn in place; in a log file it adds a line every 30 seconds.
    """
    interval = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(iterable, desc=desc, unit=unit, mininterval=interval, dynamic_ncols=True, **options)
