"""Agreement of clusters with a label."""

from collections import Counter
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
    *,
    group: str = "",
) -> dict[str, Any]:
    """Return the agreement of clusters with each label, and the first run's number of clusters.

    Args:
      labels: clusters of the training videos, [runs, n_train].
      present: False for training videos that do not count as a cluster, [n_train].
      columns: the labels of all videos by name. Labels with fewer than two values among the
        training videos are left out.
      training: rows of the training videos, [n_train].
      group: name of a label, such as the scene, or "". For each other label, `mixed` has the
        agreement with both on the training videos whose value of the group occurs with several
        values of the label: there, clusters can follow only one of them.
    """
    ami = {
        name: adjusted_mutual_information(labels, values[training])
        for name, values in columns.items()
        if len(set(values[training]) - {""}) > 1
    }
    agreement: dict[str, Any] = {"ami": ami, "num": len(np.unique(labels[0][present]))}
    if group in ami:
        agreement["mixed"] = {
            name: both
            for name in ami
            if (both := _mixed(labels, columns[name][training], columns[group][training]))
        }
    return agreement


def _mixed(labels: np.ndarray, values: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Return the agreement with both labels where groups have several values, {} if none has."""
    labeled = (values != "") & (groups != "")
    pairs = {(g, v) for g, v in zip(groups[labeled], values[labeled], strict=True)}
    count = Counter(g for g, _ in pairs)
    rows = np.flatnonzero(labeled & np.array([count[g] > 1 for g in groups]))
    if len(set(values[rows])) < 2 or len(set(groups[rows])) < 2:
        return {}
    return {
        "label": adjusted_mutual_information(labels[:, rows], values[rows]),
        "group": adjusted_mutual_information(labels[:, rows], groups[rows]),
        "num_videos": len(rows),
    }
