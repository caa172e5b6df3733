"""Memory bank D of Sec. 3.1: a running unit-norm embedding per video, split over devices by rows.

The bank is padded with zero rows to a multiple of the number of devices. Functions that read it
take the number of videos and ignore the padding.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vcjax.runtime import checks, sharding

Bank = Float[Array, "rows d"]


@checks.arguments
def init(
    key: Array,
    num_rows: int,
    dim: int,
    *,
    dtype: jnp.dtype = jnp.float32,
    mesh: jax.sharding.Mesh,
) -> Bank:
    """Return a bank of random unit rows, independent of the number of devices.

    Elements are uniform in [-1/sqrt(dim/3), 1/sqrt(dim/3)] before the rows are normalized.

    Args:
      key: Random key.
      num_rows: Number of videos.
      dim: Dimension of the embedding.
      dtype: Precision in which the rows are stored.
      mesh: Devices over which the rows are split.

    Raises:
      ValueError: if `num_rows` or `dim` is not positive.
    """
    checks.count("num_rows", num_rows)
    checks.count("dim", dim)
    num_devices = mesh.shape[sharding.AXIS]
    padding = -num_rows % num_devices

    def make() -> Bank:
        bound = (dim / 3) ** -0.5
        bank = jax.random.uniform(key, (num_rows, dim), minval=-bound, maxval=bound)
        bank = bank / jnp.linalg.norm(bank, axis=-1, keepdims=True)
        return jnp.pad(bank, ((0, padding), (0, 0))).astype(dtype)

    return jax.jit(make, out_shardings=sharding.rows(mesh))()


@checks.arguments
def update(
    bank: Bank,
    index: Int[Array, " b"],
    embedding: Float[Array, "b d"],
    *,
    momentum: float,
    where: Bool[Array, ""] | bool = True,
) -> Bank:
    """Return the bank with rows `index` moved towards `embedding` and renormalized.

    Args:
      bank: The memory bank.
      index: Rows to update. A row that occurs several times moves towards the mean of its
        embeddings.
      embedding: New embeddings, unit L2 norm. Rows are computed in their precision and then rounded
        to the precision of the bank.
      momentum: Weight of the old row; the embedding gets 1 - momentum.
      where: If False, the bank is returned unchanged.

    A row whose mean with its embeddings is zero has no direction and keeps its old value.

    Raises:
      ValueError: if shapes do not match, or, outside of jitted code, if an index is not a row or an
        embedding is not finite.
    """
    checks.index("index", index, "b", end=len(bank))
    checks.share("momentum", momentum)
    bank, index, embedding = map(jnp.asarray, (bank, index, embedding))
    same = (index[:, None] == index[None, :]).astype(embedding.dtype)
    mean = same @ embedding / same.sum(axis=1, keepdims=True)
    mixed = momentum * bank[index].astype(mean.dtype) + (1 - momentum) * mean
    norm = jnp.linalg.norm(mixed, axis=-1, keepdims=True)
    rows = (mixed / jnp.where(norm > 0, norm, 1)).astype(bank.dtype)
    return bank.at[index].set(jnp.where(where & (norm > 0), rows, bank[index]))
