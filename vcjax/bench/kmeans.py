"""Lloyd iterations of K-means in float32; peer: faiss on the CPU, or scikit-learn without faiss."""

import importlib.util
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vcjax.bench import _timing
from vcjax.clustering import kmeans

NUM_ITERATIONS = 20  # of Lloyd, as in the released code
SMALL = (50_000, 128, 1000)  # points, dimensions, clusters
LARGE = (
    (235_000, 128, 6000),
    (235_000, 2128, 6000),
)  # bank; joint space of bank and Fisher vectors


def cases(*shapes: tuple[int, int, int]) -> Iterator[dict[str, Any]]:
    """Yield an iteration on a sample with its peer; on accelerators, also on whole collections.

    With `shapes` (points, dimensions, clusters), yield these cases instead.
    """
    default = [SMALL, *LARGE] if jax.default_backend() != "cpu" else [SMALL]
    for num_points, dim, num_clusters in shapes or default:
        points = np.random.default_rng(0).standard_normal((num_points, dim), np.float32)
        on_device = jnp.asarray(points)

        def run(iterations: int, points: jax.Array = on_device, k: int = num_clusters) -> Any:
            return kmeans.fit(points, num_clusters=k, num_iterations=iterations, seed=0)

        yield _timing.case(
            "kmeans",
            f"Lloyd iteration, {num_points:,} x {dim} x {num_clusters}",
            _an_iteration(run),
            peer=_peer(points, num_clusters) if num_points == SMALL[0] else None,
            flops=2 * num_points * dim * num_clusters,
            num_bytes=points.nbytes,
        )


def _an_iteration(run: Any) -> float:
    """Return seconds per iteration, from the difference of a long and a short run."""
    many = _timing.median_seconds(lambda: run(1 + NUM_ITERATIONS))
    return (many - _timing.median_seconds(lambda: run(1))) / NUM_ITERATIONS


def _peer(points: Float[np.ndarray, "n d"], num_clusters: int) -> tuple[str, float] | None:
    first = points[np.random.default_rng(0).permutation(len(points))[:num_clusters]]
    if importlib.util.find_spec("faiss"):
        return "faiss", _an_iteration(lambda n: _faiss(points, first, n))
    if importlib.util.find_spec("sklearn"):
        return "scikit-learn", _an_iteration(lambda n: _scikit_learn(points, first, n))
    return None


def _faiss(
    points: Float[np.ndarray, "n d"], first: Float[np.ndarray, "k d"], iterations: int
) -> None:
    import faiss

    clustering = faiss.Kmeans(
        points.shape[1], len(first), niter=iterations, max_points_per_centroid=len(points)
    )
    clustering.train(points, init_centroids=first)


def _scikit_learn(
    points: Float[np.ndarray, "n d"], first: Float[np.ndarray, "k d"], iterations: int
) -> None:
    from sklearn.cluster import KMeans

    options = {"n_init": 1, "tol": 0, "algorithm": "lloyd"}
    KMeans(len(first), init=first, max_iter=iterations, **options).fit(points)
