"""Agreement of clusters with a label."""

import numpy as np
from jaxtyping import Int, Shaped
from sklearn.metrics import adjusted_mutual_info_score


def adjusted_mutual_information(
    labels: Int[np.ndarray, "runs n"], values: Shaped[np.ndarray, " n"]
) -> float:
    """Return the adjusted mutual information of clusters and `values`, averaged over the runs.

    0 is chance level and 1 an identical partition. Rows whose value is "" are ignored.
    """
    labeled = values != ""
    scores = [adjusted_mutual_info_score(values[labeled], run[labeled]) for run in labels]
    return float(np.mean(scores))
