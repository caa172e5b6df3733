"""Linear classification from a few labeled videos of each class (Sec. 4.4, Table 2)."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import stats

from vcjax.evaluation import probes

DRAWS = ("random", "first")


class Estimate(NamedTuple):
    """Mean over the draws, and half of its 95% interval (Student's t); None for a single draw."""

    mean: float
    interval: float | None
    num_draws: int


def estimate(scores: Sequence[float]) -> Estimate:
    """The mean of equally distributed `scores` and how far it is known."""
    count = len(scores)
    if count < 2:
        return Estimate(float(np.mean(scores)), None, count)
    error = np.std(scores, ddof=1) / np.sqrt(count)
    return Estimate(float(np.mean(scores)), float(stats.t.ppf(0.975, count - 1) * error), count)


def accuracy(
    known: Float[np.ndarray, "k f"],
    values: Shaped[np.ndarray, " k"],
    asked: Float[np.ndarray, "q f"],
    wanted: Shaped[np.ndarray, " q"],
    *,
    shots: Sequence[int],
    num_draws: int,
    draw: str = "random",
    seed: int,
) -> dict[str, Estimate]:
    """Share of `asked` told right from 1, 5, ... known rows of each value.

    A value with fewer rows gives all it has; shots that no value can give are left out. With `draw`
    "random" every draw is another sample; with "first" there is one, the first rows (released).
    The scale of the features is that of all known rows, which needs no label.
    """
    if draw not in DRAWS:
        raise ValueError(f"evaluation.draw is {draw!r}; use one of {list(DRAWS)}")
    scaled, asked_scaled = probes.standardize(known, asked)
    found = {}
    for shot in shots:
        if shot > np.unique(values, return_counts=True)[1].max():
            continue
        rights = []
        for rows in _draws(values, shot, num_draws, draw, seed):
            answers = probes.regress(scaled[rows], values[rows], asked_scaled)
            rights.append(float(np.mean(answers == wanted)))
        found[str(shot)] = estimate(rights)
    return found


def _draws(
    values: Shaped[np.ndarray, " k"], shot: int, num_draws: int, draw: str, seed: int
) -> Iterator[Int[np.ndarray, " s"]]:
    """Rows with at most `shot` of each value."""
    for number in range(num_draws if draw == "random" else 1):
        order = np.arange(len(values))
        if draw == "random":
            order = np.random.default_rng([seed, shot, number]).permutation(order)
        picked = [order[values[order] == value][:shot] for value in np.unique(values)]
        yield np.sort(np.concatenate(picked))
