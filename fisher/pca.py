"""Principal components by one pass over the rows."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fisher import rows as row_source

_BLOCKS, _BLOCK_ROWS = 16, 1024
_RANK_TOLERANCE = 1e-6  # of the largest variance: below it float32 has nothing but rounding


class Projection(NamedTuple):
    """What `project` takes, in float32."""

    mean: Float[Array, " d"]
    components: Float[Array, "p d"]


class PCA:
    """The principal components that keep a share `energy` of the variance, not whitened.

    `fit` sets `mean_ [d]`, `components_ [p, d]` (rows of unit norm, by falling variance; the entry
    of largest magnitude is positive), `explained_variance_ [p]` and, of all d, `energy_kept_`.
    """

    mean_: Float[np.ndarray, " d"]
    components_: Float[np.ndarray, "p d"]
    explained_variance_: Float[np.ndarray, " p"]
    energy_kept_: float

    def __init__(self, energy: float = 0.9):
        if not 0 < energy <= 1:
            raise ValueError(f"energy is a share in (0, 1], not {energy}")
        self.energy = energy

    def fit(self, x: row_source.Rows) -> "PCA":
        """Fits to rows as `GMM.fit` takes them, from their covariance. Raises ValueError if all
        rows are equal."""
        moments = row_source.moments(x)
        self.mean_ = moments.mean
        covariance = _scatter(x, moments.mean) / max(1, moments.num_rows - 1)
        variances, vectors = np.linalg.eigh(covariance)
        variances, vectors = variances[::-1], vectors[:, ::-1]
        if variances[0] <= 1e-12 * max(1.0, float((moments.mean**2).max())):
            raise ValueError(f"all {moments.num_rows} rows are equal: they have no components")
        variances = np.where(variances > _RANK_TOLERANCE * variances[0], variances, 0)
        kept = np.cumsum(variances) / variances.sum()
        num_kept = int(np.searchsorted(kept, self.energy * (1 - 1e-12))) + 1
        num_kept = min(num_kept, int((variances > 0).sum()))
        components = vectors[:, :num_kept].T
        largest = np.abs(components).argmax(axis=1)
        signs = np.sign(components[np.arange(num_kept), largest])
        self.components_ = components * signs[:, None]
        self.explained_variance_ = variances[:num_kept]
        self.energy_kept_ = float(kept[num_kept - 1])
        return self

    def transform(self, x: Float[np.ndarray, "n d"]) -> Float[Array, "n p"]:
        """The rows in the components."""
        return project(jnp.asarray(x, jnp.float32), self.projection())

    def projection(self) -> Projection:
        """The components for the device."""
        if not hasattr(self, "components_"):
            raise ValueError("these components are not fitted; call fit first")
        return Projection(*(jnp.asarray(a, jnp.float32) for a in (self.mean_, self.components_)))


def project(x: Float[Array, "n d"], projection: Projection) -> Float[Array, "n p"]:
    """Coordinates of the rows along the components."""
    centered = x - projection.mean[None]
    return jnp.dot(centered, projection.components.T, precision=jax.lax.Precision.HIGHEST)


def _scatter(x: row_source.Rows, mean: Float[np.ndarray, " d"]) -> Float[np.ndarray, "d d"]:
    """Sum of the rows' outer products about their mean: blocks in float32, total in float64."""
    total = np.zeros((len(mean), len(mean)))
    center = jnp.asarray(mean, jnp.float32)
    for blocks, num_rows in row_source.chunks(x, _BLOCKS, _BLOCK_ROWS):
        total += np.asarray(_blocks_scatter(blocks, num_rows, center), np.float64).sum(axis=0)
    return total


@jax.jit
def _blocks_scatter(
    blocks: Float[Array, "b r d"], num_rows: Int[Array, " b"], center: Float[Array, " d"]
) -> Float[Array, "b d d"]:
    def one(block: tuple[Array, Array]) -> Array:
        x, count = block
        is_row = (jnp.arange(x.shape[0]) < count)[:, None]
        y = jnp.where(is_row, x - center[None], 0)
        return jnp.dot(y.T, y, precision=jax.lax.Precision.HIGHEST)

    return jax.lax.map(one, (blocks, num_rows))
