"""The IDT baseline: a linear SVM on Fisher vectors (Table 4, last row)."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from vcjax.data.manifest import Manifest
from vcjax.evaluation import probes, protocol
from vcjax.evaluation.agreement import agreement_of
from vcjax.evaluation.protocol import Sides

log = logging.getLogger(__name__)

Clusters = Mapping[str, Int[np.ndarray, "runs n_train"]]


def evaluate(
    manifest: Manifest,
    vectors: Mapping[str, Float[np.ndarray, "n _"]],
    has_vector: Bool[np.ndarray, " n"],
    clusters: Clusters,
    *,
    group: str,
    leave_groups_out: bool,
    penalty: float,
    seed: int,
    dataset: str,
) -> dict[str, Any]:
    """The report: accuracy of each kind of vector on each label, agreement of its clusters.

    With `leave_groups_out` every video is asked, with its group held out, and `clusters` are of
    all videos; else those of the split test, and of the split train.
    """
    columns = {name: np.array(values) for name, values in manifest.own_labels.items()}
    split = np.array(manifest.split)
    clustered = np.arange(len(manifest)) if leave_groups_out else manifest.rows("train")
    asked = {}
    for name, values in columns.items():
        if leave_groups_out:
            folds = protocol.leave_groups_out(values, columns[group])
        else:
            is_group = name == group
            folds = [protocol.sides(values, split, is_group=is_group, seed=seed)]
        if reason := _obstacle(values, folds):
            log.warning("svm: no accuracy for the label %r: %s", name, reason)
        else:
            asked[name] = folds
    report: dict[str, Any] = {"dataset": dataset, "seed": seed, "models": {}}
    for kind, rows in vectors.items():
        report["models"][f"IDT {kind}"] = {
            **_accuracies(rows, has_vector, columns, asked, penalty),
            "clusters": agreement_of(clusters[kind], has_vector[clustered], columns, clustered),
        }
    report["chance"] = {
        name: protocol.chance(columns[name][np.concatenate([fold.test for fold in folds])])
        for name, folds in asked.items()
    }
    if leave_groups_out:
        report["held_out_in_turn"] = group
    else:
        report["num_videos"] = {s: len(manifest.rows(s)) for s in ("train", "test")}
    return report


def _obstacle(values: Shaped[np.ndarray, " n"], folds: Sequence[Sides]) -> str:
    """Why no accuracy can be told, or ""."""
    if not any(set(values[fold.fit]) & set(values[fold.test]) for fold in folds):
        return "no value is both known and asked"
    return next(filter(None, (protocol.obstacle(values, fold) for fold in folds)), "")


def _accuracies(
    rows: np.ndarray,
    has_vector: np.ndarray,
    columns: Mapping[str, np.ndarray],
    asked: Mapping[str, Sequence[Sides]],
    penalty: float,
) -> dict[str, dict[str, float]]:
    """Shares of all videos asked whose nearest neighbor, and whose SVM, has their value."""
    neighbor, linear = {}, {}
    for name, folds in asked.items():
        values = columns[name]
        near, right = [], []
        for fit, test, _ in folds:
            found = probes.nearest_neighbor(rows[fit], values[fit], rows[test])
            near.append(found == values[test])
            told = probes.linear_svm(
                rows[fit],
                values[fit],
                rows[test],
                known_has_vector=has_vector[fit],
                asked_has_vector=has_vector[test],
                penalty=penalty,
            )
            right.append(told == values[test])
        neighbor[name] = float(np.concatenate(near).mean())
        linear[name] = float(np.concatenate(right).mean())
    return {"neighbor": neighbor, "linear": linear}
