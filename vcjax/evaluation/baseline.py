"""The IDT baseline: a linear SVM on Fisher vectors of whole videos (Table 4, last row)."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from vcjax.data.manifest import Manifest
from vcjax.evaluation import probes, protocol
from vcjax.evaluation.agreement import agreement_of
from vcjax.evaluation.protocol import TrainTest
from vcjax.runtime import progress

log = logging.getLogger(__name__)

Clusters = Mapping[str, Int[np.ndarray, "runs n_train"]]


def evaluate(
    manifest: Manifest,
    vectors: Mapping[str, Float[np.ndarray, "n _"]],
    has_vector: Bool[np.ndarray, " n"],
    clusters: Clusters,
    *,
    group: str,
    labels: Sequence[str] = (),
    leave_groups_out: bool,
    penalty: float,
    seed: int,
    dataset: str,
) -> dict[str, Any]:
    """Return the report: accuracy on each label and cluster agreement, for each kind of vector.

    Args:
      manifest: the n videos.
      vectors: kind -> Fisher vectors, such as one kind for each descriptor.
      has_vector: False for videos without trajectories.
      clusters: kind -> cluster labels, of all videos with `leave_groups_out`, else of the training
        videos.
      group: name of the label whose values never occur in both the training and the test rows.
      labels: names of the labels to report; (): all.
      leave_groups_out: evaluate every video with its group held out, in place of the test split.
      penalty: C of the SVM.
      seed: of the halves of the held-out videos.
      dataset: title of the report.
    """
    columns = {name: np.array(values) for name, values in manifest.own_labels.items()}
    split = np.array(manifest.split)
    clustered = np.arange(len(manifest)) if leave_groups_out else manifest.rows("train")
    reported = {name: columns[name] for name in labels or columns}
    splits = {}
    for name, values in reported.items():
        if leave_groups_out:
            folds = protocol.leave_groups_out(values, columns[group])
        else:
            is_group = name == group
            folds = [protocol.sides(values, split, is_group=is_group, seed=seed)]
        if reason := protocol.first_obstacle(values, folds):
            log.warning("svm: no accuracy for the label %r: %s", name, reason)
        else:
            splits[name] = folds
    report: dict[str, Any] = {"dataset": dataset, "seed": seed, "models": {}}
    num_probes = len(vectors) * sum(len(folds) for folds in splits.values())
    with progress.bar(desc="svm", unit="probe", total=num_probes) as bar:
        for kind, rows in vectors.items():
            report["models"][f"IDT {kind}"] = {
                **_accuracies(rows, has_vector, columns, splits, penalty, bar),
                "clusters": agreement_of(
                    clusters[kind], has_vector[clustered], reported, clustered
                ),
            }
    report["chance"] = {
        name: protocol.chance(columns[name][np.concatenate([fold.test for fold in folds])])
        for name, folds in splits.items()
    }
    if leave_groups_out:
        report["held_out_in_turn"] = group
    else:
        report["num_videos"] = {s: len(manifest.rows(s)) for s in ("train", "test")}
    return report


def _accuracies(
    rows: np.ndarray,
    has_vector: np.ndarray,
    columns: Mapping[str, np.ndarray],
    splits: Mapping[str, Sequence[TrainTest]],
    penalty: float,
    bar: Any,
) -> dict[str, dict[str, float]]:
    """Return the accuracy of each probe on each label, over all folds; advance `bar` by fold."""
    neighbor, linear = {}, {}
    for name, folds in splits.items():
        values = columns[name]
        neighbor_correct, linear_correct = [], []
        for train, test, _ in folds:
            nearest = probes.nearest_neighbor(rows[train], values[train], rows[test])
            neighbor_correct.append(nearest == values[test])
            predictions = probes.linear_svm(
                rows[train],
                values[train],
                rows[test],
                train_has_vector=has_vector[train],
                test_has_vector=has_vector[test],
                penalty=penalty,
            )
            linear_correct.append(predictions == values[test])
            bar.update()
        neighbor[name] = float(np.concatenate(neighbor_correct).mean())
        linear[name] = float(np.concatenate(linear_correct).mean())
    return {"neighbor": neighbor, "linear": linear}
