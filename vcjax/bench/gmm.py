"""EM iteration of a mixture of 256 Gaussians on a million rows of 100; peer: scikit-learn."""

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from fisher.gmm import Passes, maximization
from fisher.mixture import Mixture
from vcjax.bench import _timing

NUM_ROWS, NUM_DIMS, NUM_COMPONENTS = 1_000_000, 100, 256


def cases() -> Iterator[dict[str, Any]]:
    """Yield an E step and M step from the same mixture, with rows in memory in float32."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((NUM_ROWS, NUM_DIMS), np.float32)
    mixture = Mixture(
        np.full(NUM_COMPONENTS, 1 / NUM_COMPONENTS),
        x[:NUM_COMPONENTS].astype(np.float64),
        np.ones((NUM_COMPONENTS, NUM_DIMS)),
    )
    passes, floor = Passes(x, NUM_ROWS, None), np.full(NUM_DIMS, 1e-4)

    def iteration() -> Mixture:
        center, sums = passes.expectation(mixture)
        return maximization(sums, center, floor)[0]

    ours = _timing.median_seconds(iteration, repetitions=3)
    peer = None
    if importlib.util.find_spec("sklearn"):
        peer = "scikit-learn GaussianMixture", _scikit_learn(x, mixture)
    yield _timing.case(
        "gmm",
        f"EM iteration, {NUM_ROWS:,} x {NUM_DIMS} x {NUM_COMPONENTS}",
        ours,
        peer=peer,
        # posteriors and their sums: each is a product with x and x^2 concatenated
        flops=2 * 2 * NUM_ROWS * 2 * NUM_DIMS * NUM_COMPONENTS,
        num_bytes=x.nbytes,
    )


def _scikit_learn(x: Float[np.ndarray, "n d"], mixture: Mixture) -> float:
    """Return the seconds of the E step and M step that `fit` repeats."""
    from sklearn.mixture import GaussianMixture

    peer = GaussianMixture(NUM_COMPONENTS, covariance_type="diag")
    peer.weights_, peer.means_, peer.covariances_ = mixture
    peer.precisions_cholesky_ = 1 / np.sqrt(peer.covariances_)

    def iteration() -> None:
        start = peer.weights_, peer.means_, peer.covariances_, peer.precisions_cholesky_
        _, log_posterior = peer._e_step(x)
        peer._m_step(x, log_posterior)
        peer.weights_, peer.means_, peer.covariances_, peer.precisions_cholesky_ = start

    return _timing.median_seconds(iteration, repetitions=3, warm_ups=0)
