"""Evaluation of the frozen features of one network on each label."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vcjax.evaluation import few_shot, probes, retrieval
from vcjax.evaluation.few_shot import Estimate
from vcjax.evaluation.outputs import ModelOutputs
from vcjax.evaluation.protocol import TrainTest
from vcjax.runtime import checks


class ProbeSettings(NamedTuple):
    """Settings of the probes; the fields are documented in the settings `evaluation`."""

    shots: Sequence[int] = (1, 5, 10, 20)
    num_draws: int = 10
    sampling: str = "random"
    retrieval: Sequence[int] = (1, 5, 10, 20, 50)
    num_neighbors: int = 20
    temperature: float = 0.07


@checks.arguments
def measure(
    output: ModelOutputs,
    columns: Mapping[str, np.ndarray],
    splits: Mapping[str, TrainTest],
    probing: ProbeSettings,
    *,
    seed: int,
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """Return the accuracy of each probe on each label, and the linear probe's predictions.

    `neighbor`, `vote` and `retrieval` use the embedding, `linear` and `few_shot` the pooled
    features.

    Args:
      output: embeddings and pooled features of all videos.
      columns: the labels of all videos by name.
      splits: rows to fit and to evaluate each label on.
      probing: settings of the probes.
      seed: of the folds and the few-shot samples.

    Returns:
      Measure -> label -> fraction of correct test videos in [0, 1] (few_shot and retrieval: one
      for each number of shots or depth), and label -> predictions for the test videos.
    """
    results: dict[str, dict[str, Any]] = {
        name: {} for name in ("neighbor", "linear", "few_shot", "vote", "retrieval")
    }
    predictions = {}
    for name, (train, test, _) in splits.items():
        y_train, y_test = columns[name][train], columns[name][test]
        x_train, x_test = output.embedding[train], output.embedding[test]
        pooled = output.pooled[train], y_train, output.pooled[test]
        predictions[name] = probes.linear(*pooled, seed=seed)
        linear = float(np.mean(predictions[name] == y_test))
        votes = retrieval.vote(
            x_train,
            y_train,
            x_test,
            num_neighbors=probing.num_neighbors,
            temperature=probing.temperature,
        )
        few = few_shot.accuracy(
            *pooled,
            y_test,
            shots=probing.shots,
            num_draws=probing.num_draws,
            sampling=probing.sampling,
            seed=seed,
        )
        few["all"] = Estimate(linear, None, 1)
        results["linear"][name] = linear
        results["neighbor"][name] = float(
            np.mean(probes.nearest_neighbor(x_train, y_train, x_test) == y_test)
        )
        results["vote"][name] = float(np.mean(votes == y_test))
        results["few_shot"][name] = {shot: estimate._asdict() for shot, estimate in few.items()}
        results["retrieval"][name] = retrieval.recall(
            x_train, y_train, x_test, y_test, depths=probing.retrieval
        )
    return results, predictions
