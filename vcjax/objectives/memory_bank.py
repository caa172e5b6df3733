"""The memory bank: one running embedding a video, unit rows, split over the devices by rows.

The bank is padded with rows of zeros to a multiple of the devices. Only rows below the number of
videos count; whoever reads the bank says how many these are.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vcjax.runtime import sharding

Bank = Float[Array, "rows d"]


def init(
    key: Array,
    num_rows: int,
    dim: int,
    *,
    dtype: jnp.dtype = jnp.float32,
    mesh: jax.sharding.Mesh,
) -> Bank:
    """Uniform random rows in +-1/sqrt(dim/3), normalised; the same for any number of devices."""
    num_devices = mesh.shape[sharding.AXIS]
    padding = -num_rows % num_devices

    def make() -> Bank:
        bound = (dim / 3) ** -0.5
        bank = jax.random.uniform(key, (num_rows, dim), minval=-bound, maxval=bound)
        bank = bank / jnp.linalg.norm(bank, axis=-1, keepdims=True)
        return jnp.pad(bank, ((0, padding), (0, 0))).astype(dtype)

    return jax.jit(make, out_shardings=sharding.rows(mesh))()


def gather(bank: Bank, index: Int[Array, " b"]) -> Float[Array, "b d"]:
    """Rows `index` of the bank."""
    return bank[index]


def update(
    bank: Bank,
    index: Int[Array, " b"],
    embedding: Float[Array, "b d"],
    *,
    momentum: float,
    where: Bool[Array, ""] | bool = True,
) -> Bank:
    """The bank, its rows `index` moved towards `embedding` and back onto the unit sphere.

    A row that stands several times in `index` moves towards the mean of its embeddings. All is in
    the precision of the embedding, and rounded to that of the bank. Unless `where`, the bank as it
    is.
    """
    same = (index[:, None] == index[None, :]).astype(embedding.dtype)
    mean = same @ embedding / same.sum(axis=1, keepdims=True)
    mixed = momentum * bank[index].astype(mean.dtype) + (1 - momentum) * mean
    rows = mixed / jnp.linalg.norm(mixed, axis=-1, keepdims=True)
    return bank.at[index].set(jnp.where(where, rows.astype(bank.dtype), bank[index]))
