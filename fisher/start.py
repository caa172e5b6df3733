"""Initial mixtures for expectation-maximization."""

import warnings

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
    """Return the mixture of the clusters of scikit-learn's K-means of the sample."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    kmeans = KMeans(
        num_components,
        n_init=1,
        max_iter=_LLOYD_ITERATIONS,
        random_state=int(generator.integers(2**31)),
    )
    # one thread: several would add up the clusters in any order, and a seed would not repeat
    with threadpool_limits(1, user_api="openmp"), warnings.catch_warnings():
        # fewer distinct rows than components: the centers without rows are dealt with below
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = kmeans.fit_predict(sample)
    means = kmeans.cluster_centers_.astype(np.float64)
    counts = np.bincount(labels, minlength=num_components)[:, None]
    is_member = (labels == np.arange(num_components)[:, None]).astype(np.float64)
    variances = is_member @ (sample - means[labels]) ** 2 / np.maximum(counts, 1)
    variances = np.where(counts < 2, moments.variance, variances)
    # one row is added to each count so that no weight is 0
    weights = (counts[:, 0] + 1) / (counts + 1).sum()
    return Mixture(weights, means, np.maximum(variances, floor))


STARTS = {"kmeans++": _kmeans, "random": _random_rows}
