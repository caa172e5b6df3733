"""Improved dense trajectories (Wang & Schmid 2013): where points move, and what is around them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from vcjax.idt.trajectories import IdtSettings, Trajectories

__all__ = ["IdtSettings", "Trajectories", "extract"]


def extract(
    video: str | Path | Iterable[np.ndarray],
    *,
    people: str | Path | Sequence[Float[np.ndarray, "n 4"]] | None = None,
    homographies: Float[np.ndarray, "pairs 3 3"] | None = None,
    matcher: str = "flow",
    settings: IdtSettings | None = None,
) -> Trajectories:
    """Trajectories of a video; see `vcjax.idt.extraction.extract`."""
    from vcjax.idt import extraction  # OpenCV and numba, which reading what is stored does without

    return extraction.extract(
        video, people=people, homographies=homographies, matcher=matcher, settings=settings
    )
