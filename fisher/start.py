"""Mixtures to start expectation-maximisation from."""

import numpy as np
from jaxtyping import Float

from fisher import rows as row_source
from fisher.mixture import Mixture

_SAMPLE_ROWS = 100  # a component, of which the start is made
_LLOYD_ITERATIONS = 10


def draw(
    name: str,
    x: row_source.Rows,
    moments: row_source.Moments,
    num_components: int,
    *,
    seed: int,
    floor: Float[np.ndarray, " d"],
) -> Mixture:
    """A start for `num_components` components, by seed, the same for any number of devices."""
    generator = np.random.default_rng(seed)
    num_rows = min(moments.num_rows, max(10_000, _SAMPLE_ROWS * num_components))
    chosen = generator.choice(moments.num_rows, num_rows, replace=False)
    sample = row_source.at(x, np.sort(chosen)).astype(np.float64)
    return STARTS[name](sample, moments, num_components, generator, floor)


def _random_rows(
    sample: Float[np.ndarray, "n d"],
    moments: row_source.Moments,
    num_components: int,
    generator: np.random.Generator,
    floor: Float[np.ndarray, " d"],
) -> Mixture:
    """Rows drawn at random as means; weights equal, variances those of all rows."""
    means = sample[generator.choice(len(sample), num_components, replace=False)]
    variances = np.tile(np.maximum(moments.variance, floor), (num_components, 1))
    return Mixture(np.full(num_components, 1 / num_components), means, variances)


def _kmeans(
    sample: Float[np.ndarray, "n d"],
    moments: row_source.Moments,
    num_components: int,
    generator: np.random.Generator,
    floor: Float[np.ndarray, " d"],
) -> Mixture:
    """Clusters of the sample by Lloyd's iterations from k-means++ centers."""
    means = _spread(sample, num_components, generator)
    for _ in range(_LLOYD_ITERATIONS):
        labels = (0.5 * (means**2).sum(axis=1) - sample @ means.T).argmin(axis=1)
        counts = np.bincount(labels, minlength=num_components).astype(np.float64)
        member = np.zeros((num_components, len(sample)))
        member[labels, np.arange(len(sample))] = 1
        empty = counts == 0
        divisor = np.maximum(counts, 1)[:, None]
        means = np.where(empty[:, None], means, member @ sample / divisor)
    # around the mean of all rows, from which squares lose nothing
    second = member @ (sample - moments.mean) ** 2 / divisor - (means - moments.mean) ** 2
    few = (counts < 2)[:, None]
    variances = np.maximum(np.where(few, moments.variance[None], second), floor)
    # a row more for each: an empty one keeps its center and finds its rows by itself
    return Mixture((counts + 1) / (counts + 1).sum(), means, variances)


def _spread(
    sample: Float[np.ndarray, "n d"], num_components: int, generator: np.random.Generator
) -> Float[np.ndarray, "k d"]:
    """k-means++: each next center is a row, drawn by its squared distance to the nearest so far."""
    squares = (sample**2).sum(axis=1)
    chosen = [int(generator.integers(len(sample)))]
    nearest = np.full(len(sample), np.inf)
    while len(chosen) < num_components:
        last = sample[chosen[-1]]
        nearest = np.minimum(nearest, np.maximum(squares - 2 * sample @ last + last @ last, 0))
        cumulative = nearest.cumsum()
        if cumulative[-1] <= 0:  # fewer different rows than components: any row will do
            chosen.append(int(generator.integers(len(sample))))
            continue
        drawn = np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right")
        chosen.append(min(int(drawn), len(sample) - 1))
    return sample[chosen]


STARTS = {"kmeans++": _kmeans, "random": _random_rows}
