"""How far clusters agree with a label."""

import numpy as np
from jaxtyping import Int, Shaped
from sklearn.metrics import adjusted_mutual_info_score


def adjusted_mutual_information(
    labels: Int[np.ndarray, "runs n"], values: Shaped[np.ndarray, " n"]
) -> float:
    """Mean over the runs; 0 is chance, 1 the same partition. Rows without a value do not count."""
    known = values != ""
    scores = [adjusted_mutual_info_score(values[known], run[known]) for run in labels]
    return float(np.mean(scores))
