"""Initial mixtures for expectation-maximization."""

import numpy as np
from jaxtyping import Float

from fisher import rows as row_source
from fisher.mixture import Mixture

_SAMPLE_ROWS = 100  # rows per component in the sample from which the mixture is initialized
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
    """Return an initial mixture, computed on the host: the same for any number of devices.

    Args:
      name: key of `STARTS`, "kmeans++" or "random".
      x: the rows, of which a random sample is used.
      moments: number, mean and variance of the rows.
      num_components: number of components.
      seed: seed of the sample and of the initialization.
      floor: lower bound of the variances.
    """
    generator = np.random.default_rng(seed)
    num_rows = min(moments.num_rows, max(10_000, _SAMPLE_ROWS * num_components))
    indices = generator.choice(moments.num_rows, num_rows, replace=False)
    sample = row_source.take(x, np.sort(indices)).astype(np.float64)
    return STARTS[name](sample, moments, num_components, generator, floor)


def _random_rows(
    sample: Float[np.ndarray, "n d"],
    moments: row_source.Moments,
    num_components: int,
    generator: np.random.Generator,
    floor: Float[np.ndarray, " d"],
) -> Mixture:
    """Return a mixture with random rows as means, equal weights and the variances of all rows."""
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
    """Return the mixture of clusters of the sample, by Lloyd's iterations from k-means++ centers.

    It stays in NumPy: `sklearn.cluster.KMeans` starts are equally good, but draw another
    mixture for the same seed and, with several OpenMP threads, one that a seed does not repeat.
    """
    means = _spread(sample, num_components, generator)
    for _ in range(_LLOYD_ITERATIONS):
        labels = (0.5 * (means**2).sum(axis=1) - sample @ means.T).argmin(axis=1)
        counts = np.bincount(labels, minlength=num_components).astype(np.float64)
        member = np.zeros((num_components, len(sample)))
        member[labels, np.arange(len(sample))] = 1
        empty = counts == 0
        divisor = np.maximum(counts, 1)[:, None]
        means = np.where(empty[:, None], means, member @ sample / divisor)
    # squares are taken around the mean of all rows, which avoids cancellation
    second = member @ (sample - moments.mean) ** 2 / divisor - (means - moments.mean) ** 2
    few = (counts < 2)[:, None]
    variances = np.maximum(np.where(few, moments.variance[None], second), floor)
    # one row is added to each count so that no weight is 0; EM then moves an empty component
    return Mixture((counts + 1) / (counts + 1).sum(), means, variances)


def _spread(
    sample: Float[np.ndarray, "n d"], num_components: int, generator: np.random.Generator
) -> Float[np.ndarray, "k d"]:
    """Return k-means++ centers: rows drawn by squared distance to the nearest center so far."""
    squares = (sample**2).sum(axis=1)
    chosen = [int(generator.integers(len(sample)))]
    nearest = np.full(len(sample), np.inf)
    while len(chosen) < num_components:
        last = sample[chosen[-1]]
        nearest = np.minimum(nearest, np.maximum(squares - 2 * sample @ last + last @ last, 0))
        cumulative = nearest.cumsum()
        if cumulative[-1] <= 0:  # fewer distinct rows than components: any row will do
            chosen.append(int(generator.integers(len(sample))))
            continue
        drawn = np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right")
        chosen.append(min(int(drawn), len(sample) - 1))
    return sample[chosen]


STARTS = {"kmeans++": _kmeans, "random": _random_rows}
