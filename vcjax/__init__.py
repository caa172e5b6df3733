"""Unsupervised video representations, learned via dense trajectory clustering.

`vcjax.load` returns a trained network. The modules, in the order of the pipeline: `data`, `idt`
(with the separate package `fisher`), `prior`, `models`, `memory_bank`, `objectives`, `clustering`,
`step`, `train`, `evaluation`. `pretrained`, `embed` and `interop` use the trained networks.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vcjax.pretrained import Pretrained


def load(source: str) -> "Pretrained":
    """Return the network at `source`.

    Args:
      source: an exported folder, the folder RUN/STAGE of a training stage, RUN/STAGE/best for the
        checkpoint with the best validation score, or a hub id `owner/name` (extra `hub`).

    Raises:
      FileNotFoundError: if `source` has no network.
      ValueError: if the files at `source` have another format.
    """
    from vcjax import pretrained

    return pretrained.load(source)
