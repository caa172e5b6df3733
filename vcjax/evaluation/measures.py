"""Evaluation of the frozen features of one network on a label."""

from collections.abc import Sequence
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
    max_train: int = 20_000


NAMES = ("neighbor", "linear", "few_shot", "vote", "retrieval")  # of the measures in a report


class Measured(NamedTuple):
    """Accuracies of the probes of a network on one label, in [0, 1], over the tests of all folds.

    `few_shot` has an entry for each number of shots and "all", `retrieval` for each depth.
    """

    neighbor: float
    linear: float
    few_shot: dict[str, Any]
    vote: float
    retrieval: dict[str, float]
    linear_by_fold: list[float]
    predictions: np.ndarray  # of the linear probe, for the test rows of all folds in order


@checks.arguments
def measure(
    output: ModelOutputs,
    values: np.ndarray,
    folds: Sequence[TrainTest],
    probing: ProbeSettings,
    *,
    seed: int,
) -> Measured:
    """Return the accuracy of each probe on a label.

    `neighbor`, `vote` and `retrieval` use the embedding, `linear` and `few_shot` the pooled
    features.

    Args:
      output: embeddings and pooled features of all videos.
      values: the label of all videos.
      folds: rows to fit and to evaluate on, each fold with its own probes.
      probing: settings of the probes.
      seed: of the folds of cross-validation and the few-shot samples.
    """
    parts = [_measure(output, values, fold, probing, seed) for fold in folds]
    sizes = [len(fold.test) for fold in folds]

    def mean(figures: Sequence[Any]) -> Any:
        return np.average(figures, axis=0, weights=sizes)

    linear = [
        float(np.mean(p.predictions == values[f.test])) for p, f in zip(parts, folds, strict=True)
    ]
    shots = [s for s in parts[0].scores if all(s in part.scores for part in parts)]
    few = {s: few_shot.estimate(mean([part.scores[s] for part in parts]).tolist()) for s in shots}
    few["all"] = Estimate(float(mean(linear)), None, 1)
    return Measured(
        neighbor=float(mean([part.neighbor for part in parts])),
        linear=float(mean(linear)),
        few_shot={shot: estimate._asdict() for shot, estimate in few.items()},
        vote=float(mean([part.vote for part in parts])),
        retrieval={k: float(mean([p.retrieval[k] for p in parts])) for k in parts[0].retrieval},
        linear_by_fold=linear,
        predictions=np.concatenate([part.predictions for part in parts]),
    )


class _Fold(NamedTuple):
    """Results of the probes in one fold."""

    neighbor: float
    vote: float
    retrieval: dict[str, float]
    scores: dict[str, list[float]]  # accuracy of each few-shot sample
    predictions: np.ndarray


def _measure(
    output: ModelOutputs, values: np.ndarray, fold: TrainTest, probing: ProbeSettings, seed: int
) -> _Fold:
    y_train, y_test = values[fold.train], values[fold.test]
    x_train, x_test = output.embedding[fold.train], output.embedding[fold.test]
    pooled = output.pooled[fold.train], y_train, output.pooled[fold.test]
    votes = retrieval.vote(
        x_train,
        y_train,
        x_test,
        num_neighbors=probing.num_neighbors,
        temperature=probing.temperature,
    )
    scores = few_shot.scores(
        *pooled,
        y_test,
        shots=probing.shots,
        num_draws=probing.num_draws,
        sampling=probing.sampling,
        seed=seed,
    )
    return _Fold(
        neighbor=float(np.mean(probes.nearest_neighbor(x_train, y_train, x_test) == y_test)),
        vote=float(np.mean(votes == y_test)),
        retrieval=retrieval.recall(x_train, y_train, x_test, y_test, depths=probing.retrieval),
        scores=scores,
        predictions=probes.linear(*pooled, seed=seed),
    )
