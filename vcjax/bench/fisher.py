"""Fisher vectors of a mixture of 256 Gaussians; peer: scikit-learn's posteriors and NumPy."""

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

import fisher
from fisher.rows import Columns
from vcjax.bench import _timing

NUM_ROWS, NUM_DIMS, NUM_COMPONENTS = 30_000, 136, 256  # a ten-second video
NUM_DESCRIPTOR_DIMS, NUM_VIDEOS = 426, 8


def cases() -> Iterator[dict[str, Any]]:
    """Yield the released encoding of a video, then whole videos: PCA, Eq. 5, norm and sketch."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((NUM_ROWS, NUM_DIMS), np.float32)
    gmm = _mixture(generator)
    ours = _timing.median_seconds(lambda: fisher.encode(x, gmm, "released"))
    peer = None
    if importlib.util.find_spec("sklearn"):
        peer = "predict_proba + NumPy", _predict_proba(x, gmm)
    flops = 2 * 2 * NUM_ROWS * 2 * NUM_DIMS * NUM_COMPONENTS  # posteriors and their sums
    yield _timing.case(
        "fisher",
        f"encode {NUM_ROWS:,} x {NUM_DIMS} x {NUM_COMPONENTS}",
        ours,
        peer=peer,
        flops=flops,
        num_bytes=x.nbytes,
    )
    model = _model(generator, gmm)
    rows = generator.standard_normal((NUM_ROWS, NUM_DESCRIPTOR_DIMS), np.float32)
    videos = [(str(i), rows) for i in range(NUM_VIDEOS)]
    seconds = _timing.median_seconds(lambda: model.encode_collection(videos, variant="paper")[1])
    projection = 2 * NUM_ROWS * NUM_DESCRIPTOR_DIMS * NUM_DIMS
    yield _timing.case(
        "fisher",
        f"{NUM_VIDEOS} videos of {NUM_ROWS:,} rows, {NUM_VIDEOS / seconds:.3g} videos/s",
        seconds,
        flops=NUM_VIDEOS * (flops + projection),
        num_bytes=NUM_VIDEOS * rows.nbytes,
    )


def _mixture(generator: np.random.Generator) -> fisher.GMM:
    gmm = fisher.GMM(NUM_COMPONENTS)
    gmm.weights_ = generator.dirichlet(np.full(NUM_COMPONENTS, 5.0))
    gmm.means_ = generator.normal(size=(NUM_COMPONENTS, NUM_DIMS))
    gmm.covariances_ = generator.uniform(0.5, 2, (NUM_COMPONENTS, NUM_DIMS))
    return gmm


def _model(generator: np.random.Generator, gmm: fisher.GMM) -> fisher.Model:
    pca = fisher.PCA()
    basis = np.linalg.qr(generator.normal(size=(NUM_DESCRIPTOR_DIMS, NUM_DIMS)))[0]
    pca.mean_, pca.components_ = np.zeros(NUM_DESCRIPTOR_DIMS), basis.T
    part = fisher.Part(Columns(), pca, gmm)
    sketch = fisher.Sketch(2 * gmm.means_.size, 2000, 0)
    return fisher.Model({"all": part}, sketch, NUM_DESCRIPTOR_DIMS, NUM_ROWS, 0)


def _predict_proba(x: Float[np.ndarray, "n d"], gmm: fisher.GMM) -> float:
    """Return the seconds of the released derivatives in NumPy with scikit-learn's posteriors."""
    from sklearn.mixture import GaussianMixture

    peer = GaussianMixture(NUM_COMPONENTS, covariance_type="diag")
    peer.weights_, peer.means_, peer.covariances_ = gmm.weights_, gmm.means_, gmm.covariances_
    peer.precisions_cholesky_ = 1 / np.sqrt(peer.covariances_)

    def encode() -> Float[np.ndarray, "k e"]:
        posterior = peer.predict_proba(x)
        count = posterior.mean(axis=0)[:, None]
        first, second = posterior.T @ x / len(x), posterior.T @ x**2 / len(x)
        spread = count * (peer.covariances_ - peer.means_**2) - second + 2 * first * peer.means_
        return np.concatenate([first - count * peer.means_, spread], axis=1)

    return _timing.median_seconds(encode, repetitions=3)
