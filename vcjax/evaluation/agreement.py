"""Agreement of clusters with a label."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped
from sklearn.metrics import adjusted_mutual_info_score

from vcjax.runtime import checks


@checks.arguments
def adjusted_mutual_information(
    labels: Int[np.ndarray, "runs n"], values: Shaped[np.ndarray, " n"]
) -> float:
    """Return the adjusted mutual information of clusters and `values`, averaged over the runs.

    0 is chance level and 1 an identical partition. Rows whose value is "" are ignored.
    """
    labeled = values != ""
    scores = [adjusted_mutual_info_score(values[labeled], run[labeled]) for run in labels]
    return float(np.mean(scores))


def agreement_of(
    labels: np.ndarray,
    present: np.ndarray,
    columns: Mapping[str, np.ndarray],
    training: np.ndarray,
) -> dict[str, Any]:
    """Return the agreement of clusters with each label, and the first run's number of clusters.

    Args:
      labels: clusters of the training videos, [runs, n_train].
      present: False for training videos that do not count as a cluster, [n_train].
      columns: the labels of all videos by name. Labels with fewer than two values among the
        training videos are left out.
      training: rows of the training videos, [n_train].
    """
    ami = {
        name: adjusted_mutual_information(labels, values[training])
        for name, values in columns.items()
        if len(set(values[training]) - {""}) > 1
    }
    return {"ami": ami, "num": len(np.unique(labels[0][present]))}
