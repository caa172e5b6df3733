"""Unsupervised video representations, learned via dense trajectory clustering.

`vcjax.load` returns a trained network, `vcjax.load_clusters` the clusters of a run. The modules, in
the order of the pipeline: `data`, `idt`
(with the separate package `fisher`), `prior`, `models`, `memory_bank`, `objectives`, `clustering`,
`step`, `train`, `evaluation`. `pretrained`, `embed` and `interop` use the trained networks.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vcjax.data.clusters import ClusterTable
    from vcjax.pretrained import Pretrained


def load(source: str) -> "Pretrained":
    """Return the network at `source`.

    Args:
      source: an exported folder, the folder RUN/STAGE of a training stage, RUN/STAGE/best for the
        checkpoint with the best validation score, or a hub id `owner/name` (extra `hub`).

    Raises:
      FileNotFoundError: if `source` has no network.
      ValueError: if the files at `source` have another format.
      ImportError: if the extra `train` is not installed.
    """
    from vcjax.runtime import extras

    with extras.explained():
        from vcjax import pretrained
    return pretrained.load(source)


def load_clusters(source: str) -> "ClusterTable":
    """Return the clusters of the videos of a run.

    Args:
      source: the folder of a run, for all of its clusterings; the folder of a stage of local
        aggregation, for the clusters that it was trained with; or a file `clusters.csv`.

    Raises:
      FileNotFoundError: if `source` has no clusters.
      ValueError: if the file is not a table of clusters.
    """
    from vcjax.data import clusters

    return clusters.read(source)
