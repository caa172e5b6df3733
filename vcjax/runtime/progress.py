"""The one progress bar: rate and time left; in a log file a line every half minute."""

import sys
from typing import Any

from tqdm import tqdm


def bar(iterable: Any = None, *, desc: str, unit: str, **options: Any) -> tqdm:
    """A progress bar over `iterable`, or one to `update()`, on standard error."""
    interval = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(iterable, desc=desc, unit=unit, mininterval=interval, dynamic_ncols=True, **options)
