"""Principal component analysis (PCA) of rows that need not fit in memory."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fisher import rows as row_source

_BLOCKS, _BLOCK_ROWS = 16, 1024
_RANK_TOLERANCE = 1e-6  # fraction of the largest variance; less is float32 rounding error


class Projection(NamedTuple):
    """Parameters of `project`, in float32."""

    mean: Float[Array, " d"]
    components: Float[Array, "p d"]


class PCA:
    """Principal components that explain at least the fraction `explained_variance` of the variance.

    `fit` sets `mean_ [d]`, `components_ [p, d]` (rows of unit norm, in order of decreasing
    variance; the entry of largest magnitude is positive), `explained_variance_ [p]`, and
    `explained_variance_kept_`, the fraction of the variance that the p components explain.
    Projections are not whitened. The paper's `explained_variance` is 0.9 (Sec. 4.2).
    """

    mean_: Float[np.ndarray, " d"]
    components_: Float[np.ndarray, "p d"]
    explained_variance_: Float[np.ndarray, " p"]
    explained_variance_kept_: float

    def __init__(self, explained_variance: float = 0.9):
        is_number = isinstance(explained_variance, int | float | np.floating)
        if not is_number or not 0 < explained_variance <= 1:
            raise ValueError(
                f"explained_variance is {explained_variance!r}; it must be a fraction in (0, 1]"
            )
        self.explained_variance = explained_variance

    def fit(self, x: row_source.Rows) -> "PCA":
        """Fit to the covariance of the rows `x` (see `GMM.fit`) and return the PCA.

        Raises:
          ValueError: if there are no rows, if all rows are equal, or if a value is not finite.
        """
        moments = row_source.moments(x)
        self.mean_ = moments.mean
        covariance = _scatter(x, moments.mean) / max(1, moments.num_rows - 1)
        variances, vectors = np.linalg.eigh(covariance)
        variances, vectors = variances[::-1], vectors[:, ::-1]
        if variances[0] <= 1e-12 * max(1.0, float((moments.mean**2).max())):
            raise ValueError(
                f"all {moments.num_rows} rows are equal: there are no principal components"
            )
        variances = np.where(variances > _RANK_TOLERANCE * variances[0], variances, 0)
        kept = np.cumsum(variances) / variances.sum()
        num_kept = int(np.searchsorted(kept, self.explained_variance * (1 - 1e-12))) + 1
        num_kept = min(num_kept, int((variances > 0).sum()))
        components = vectors[:, :num_kept].T
        largest = np.abs(components).argmax(axis=1)
        signs = np.sign(components[np.arange(num_kept), largest])
        self.components_ = components * signs[:, None]
        self.explained_variance_ = variances[:num_kept]
        self.explained_variance_kept_ = float(kept[num_kept - 1])
        return self

    def transform(self, x: Float[np.ndarray, "n d"]) -> Float[Array, "n p"]:
        """Return the coordinates of the rows `x` along the components.

        Raises:
          ValueError: if `x` is not an array of rows of the dimension of the fit.
        """
        projection = self.projection()
        row_source.check_array(x, len(projection.mean))
        return project(jnp.asarray(x, jnp.float32), projection)

    def projection(self) -> Projection:
        """Return mean and components as float32 arrays on the device."""
        if not hasattr(self, "components_"):
            raise ValueError("this PCA is not fitted; call fit first")
        return Projection(*(jnp.asarray(a, jnp.float32) for a in (self.mean_, self.components_)))


def project(x: Float[Array, "n d"], projection: Projection) -> Float[Array, "n p"]:
    """Return the coordinates of the rows `x` along the components."""
    centered = x - projection.mean[None]
    return jnp.dot(centered, projection.components.T, precision=jax.lax.Precision.HIGHEST)


def _scatter(x: row_source.Rows, mean: Float[np.ndarray, " d"]) -> Float[np.ndarray, "d d"]:
    """Return the sum of the outer products of the centered rows: d x d scatter matrix.

    Blocks are summed in float32 on the device, the total in float64 on the host.
    """
    total = np.zeros((len(mean), len(mean)))
    center = jnp.asarray(mean, jnp.float32)
    for blocks, num_rows in row_source.chunks(x, _BLOCKS, _BLOCK_ROWS):
        total += np.asarray(_blocks_scatter(blocks, num_rows, center), np.float64).sum(axis=0)
    return total


@jax.jit
def _blocks_scatter(
    blocks: Float[Array, "b r d"], num_rows: Int[Array, " b"], center: Float[Array, " d"]
) -> Float[Array, "b d d"]:
    def block_scatter(block: tuple[Float[Array, "r d"], Int[Array, ""]]) -> Float[Array, "d d"]:
        x, count = block
        is_row = (jnp.arange(x.shape[0]) < count)[:, None]
        y = jnp.where(is_row, x - center[None], 0)
        return jnp.dot(y.T, y, precision=jax.lax.Precision.HIGHEST)

    return jax.lax.map(block_scatter, (blocks, num_rows))
