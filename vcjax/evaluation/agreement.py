"""How far clusters agree with a label."""

from collections.abc import Mapping
from typing import Any

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


def agreement_of(
    labels: np.ndarray,
    present: np.ndarray,
    columns: Mapping[str, np.ndarray],
    training: np.ndarray,
) -> dict[str, Any]:
    """Agreement with each label that takes two values, and how many clusters the first run has."""
    ami = {
        name: adjusted_mutual_information(labels, values[training])
        for name, values in columns.items()
        if len(set(values[training]) - {""}) > 1
    }
    return {"ami": ami, "num": len(np.unique(labels[0][present]))}
