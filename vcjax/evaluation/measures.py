"""What is asked of one network's frozen features, label by label."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vcjax.evaluation import few_shot, probes, retrieval
from vcjax.evaluation.few_shot import Estimate
from vcjax.evaluation.outputs import ModelOutputs
from vcjax.evaluation.protocol import Sides


class Probing(NamedTuple):
    """How features are probed; the fields are those of the settings `evaluation`."""

    shots: Sequence[int] = (1, 5, 10, 20)
    num_draws: int = 10
    draw: str = "random"
    retrieval: Sequence[int] = (1, 5, 10, 20, 50)
    num_neighbors: int = 20
    temperature: float = 0.07


def measure(
    output: ModelOutputs,
    columns: Mapping[str, np.ndarray],
    asked: Mapping[str, Sides],
    probing: Probing,
    *,
    seed: int,
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """For each measure and label, the share of the held-out videos that it gets right.

    And for each label what the linear classifier told of them. `neighbor`, `vote` and `retrieval`
    go by the embedding, `linear` and `few_shot` by the pooled features.
    """
    found: dict[str, dict[str, Any]] = {
        name: {} for name in ("neighbor", "linear", "few_shot", "vote", "retrieval")
    }
    told = {}
    for name, (fit, test, _) in asked.items():
        values, wanted = columns[name][fit], columns[name][test]
        near, far = output.embedding[fit], output.embedding[test]
        pooled = output.pooled[fit], values, output.pooled[test]
        told[name] = probes.linear(*pooled, seed=seed)
        linear = float(np.mean(told[name] == wanted))
        votes = retrieval.vote(
            near,
            values,
            far,
            num_neighbors=probing.num_neighbors,
            temperature=probing.temperature,
        )
        few = few_shot.accuracy(
            *pooled,
            wanted,
            shots=probing.shots,
            num_draws=probing.num_draws,
            draw=probing.draw,
            seed=seed,
        )
        few["all"] = Estimate(linear, None, 1)
        found["linear"][name] = linear
        found["neighbor"][name] = float(
            np.mean(probes.nearest_neighbor(near, values, far) == wanted)
        )
        found["vote"][name] = float(np.mean(votes == wanted))
        found["few_shot"][name] = {shot: estimate._asdict() for shot, estimate in few.items()}
        found["retrieval"][name] = retrieval.recall(
            near, values, far, wanted, depths=probing.retrieval
        )
    return found, told
