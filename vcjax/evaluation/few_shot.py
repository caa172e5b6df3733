"""Linear classification from a few labeled videos of each class (Sec. 4.4, Table 2)."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, ParamSpec

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import stats

from vcjax.evaluation import probes
from vcjax.runtime import checks

_P = ParamSpec("_P")
DRAWS = ("random", "first")


class Estimate(NamedTuple):
    """A mean over draws or seeds, with the half-width of its 95% confidence interval.

    The interval is that of Student's t, and None for a single draw.
    """

    mean: float
    interval: float | None
    num_draws: int


@checks.arguments
def estimate(scores: Sequence[float]) -> Estimate:
    """Return the mean and 95% confidence interval of independent, equally distributed `scores`."""
    count = len(scores)
    if not count:
        raise ValueError("scores is empty; pass at least one")
    if count < 2:
        return Estimate(float(np.mean(scores)), None, count)
    error = np.std(scores, ddof=1) / np.sqrt(count)
    return Estimate(float(np.mean(scores)), float(stats.t.ppf(0.975, count - 1) * error), count)


@checks.arguments
def scores(
    x_train: Float[np.ndarray, "k f"],
    y_train: Shaped[np.ndarray, " k"],
    x_test: Float[np.ndarray, "q f"],
    y_test: Shaped[np.ndarray, " q"],
    *,
    shots: Sequence[int],
    num_draws: int,
    sampling: str = "random",
    seed: int,
    is_fisher: bool = False,
) -> dict[str, list[float]]:
    """Return the accuracy on the test rows after training on each sample of rows of each class.

    Features are standardized over all training rows, which needs no label. Fisher vectors are
    classified as they are, as in `probes.linear_fisher`.

    Args:
      x_train: features to draw the training samples from.
      y_train: their labels.
      x_test: features to evaluate on.
      y_test: their labels.
      shots: numbers of training rows per class. A class with fewer rows contributes all of them.
      num_draws: number of random samples for each number of shots.
      sampling: "random", or "first" for a single sample of the first rows, as in the released code.
      seed: of the random samples.
      is_fisher: whether the features are Fisher vectors of unit norm.

    Returns:
      Accuracies in [0, 1], one per sample, for each number of shots, the keys as text. Numbers of
      shots that no class has enough rows for are omitted.

    Raises:
      ValueError: if `sampling` is not in DRAWS.
    """
    checks.count("num_draws", num_draws)
    for shot in shots:
        checks.count("a number of shots", shot)
    if sampling not in DRAWS:
        raise ValueError(f"evaluation.sampling is {sampling!r}; use one of {', '.join(DRAWS)}")
    scaled_train, scaled_test = (
        (x_train.astype(np.float64), x_test.astype(np.float64))
        if is_fisher
        else probes.standardize(x_train, x_test)
    )
    strengths = probes.FISHER_STRENGTHS if is_fisher else probes.NETWORK_STRENGTHS
    accuracies: dict[str, list[float]] = {}
    for shot in shots:
        if shot > np.unique(y_train, return_counts=True)[1].max():
            continue
        accuracies[str(shot)] = []
        for rows in _draws(y_train, shot, num_draws, sampling, seed):
            predictions = probes.regress(
                scaled_train[rows], y_train[rows], scaled_test, strengths=strengths
            )
            accuracies[str(shot)].append(float(np.mean(predictions == y_test)))
    return accuracies


def _with_estimates(
    scores: Callable[_P, dict[str, list[float]]],
) -> Callable[_P, dict[str, Estimate]]:
    def accuracy(*args: _P.args, **kwargs: _P.kwargs) -> dict[str, Estimate]:
        """Return the mean of `scores`, with its interval, for each number of shots."""
        return {shot: estimate(drawn) for shot, drawn in scores(*args, **kwargs).items()}

    return accuracy


accuracy = _with_estimates(scores)


def _draws(
    values: Shaped[np.ndarray, " k"], shot: int, num_draws: int, sampling: str, seed: int
) -> Iterator[Int[np.ndarray, " s"]]:
    """Yield the rows of each sample, at most `shot` of each value."""
    for number in range(num_draws if sampling == "random" else 1):
        order = np.arange(len(values))
        if sampling == "random":
            order = np.random.default_rng([seed, shot, number]).permutation(order)
        picked = [order[values[order] == value][:shot] for value in np.unique(values)]
        yield np.sort(np.concatenate(picked))
