"""Improved dense trajectories (Wang & Schmid 2013): tracked points and their descriptors.

Example:
    >>> import numpy as np
    >>> from vcjax import idt
    >>> static = np.full((20, 48, 64, 3), 128, np.uint8)  # frames without motion
    >>> idt.extract(static).features.shape
    (0, 426)
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from vcjax.idt.trajectories import IdtSettings, Trajectories
from vcjax.runtime import checks, numba_cache

__all__ = ["IdtSettings", "Trajectories", "extract"]

numba_cache.ensure(Path(__file__).parent)


def extract(
    video: str | Path | Iterable[np.ndarray],
    *,
    people: str | Path | Sequence[Float[np.ndarray, "n 4"]] | None = None,
    homographies: Float[np.ndarray, "pairs 3 3"] | None = None,
    matcher: str = "flow",
    settings: IdtSettings | None = None,
) -> Trajectories:
    """Return the trajectories of a video, in order of the frame on which they end.

    Args:
        video: Video file, or its frames: RGB [height, width, 3] or grayscale [height, width],
            uint8.
        people: Box file, or boxes (left, top, right, bottom) of each frame, in pixels. Their motion
            is excluded from the estimate of camera motion.
        homographies: Camera motion from each frame to the next, in place of the estimate.
        matcher: Point matches for the estimate: "flow", or "surf" for flow and SURF.
        settings: Constants of the method.

    Raises:
        ValueError: If frames differ in size or are smaller than a patch (32 x 32 pixels), or if
            there are fewer boxes or homographies than frames require.
    """
    checks.argument("video", video, str | Path | Iterable | np.ndarray)
    checks.argument("people", people, str | Path | Sequence | None)
    checks.argument("settings", settings, IdtSettings | None)
    # imported late: reading stored trajectories needs neither OpenCV nor numba
    from vcjax.idt import extraction

    return extraction.extract(
        video, people=people, homographies=homographies, matcher=matcher, settings=settings
    )
