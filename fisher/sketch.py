"""Count sketch: a random projection to few values that preserves inner products in expectation."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fisher import rows as row_source


class Sketch:
    """Count sketch p(psi) = P psi from `dim_in` to `dim_out` values (Sec. 3.3).

    Each value is added with a random sign to one bucket. Each run of `dim_out` consecutive values
    fills every bucket once, in random order. A seed gives the same sketch on any platform.
    """

    def __init__(self, dim_in: int, dim_out: int, seed: int):
        row_source.check_count("dim_in", dim_in, 1)
        row_source.check_count("dim_out", dim_out, 1)
        row_source.check_count("seed", seed)
        self.dim_in, self.dim_out, self.seed = dim_in, dim_out, seed
        bits = np.random.Philox(key=seed)  # raw bits are the same in every version of NumPy
        num_rounds = -(-dim_in // dim_out)
        # index of the value that each round adds to each bucket; dim_in: no value. A gather adds in
        # the same order on any device, unlike a scatter.
        source = np.empty((num_rounds, dim_out), np.int32)
        for i in range(num_rounds):
            source[i] = i * dim_out + np.argsort(bits.random_raw(dim_out), kind="stable")
        self._source = np.minimum(source, dim_in)
        signs = np.where(np.arange(dim_in) < dim_in // 2, 1, -1).astype(np.int8)
        self._signs = signs[np.argsort(bits.random_raw(dim_in), kind="stable")]

    def transform(
        self, v: Float[np.ndarray, "... i"] | Float[Array, "... i"]
    ) -> Float[Array, "... o"]:
        """Return the sketches of the vectors `v` along the last axis.

        Raises:
          ValueError: if the vectors do not have `dim_in` values.
        """
        row_source.check_numbers("vectors", v)
        if v.shape[-1:] != (self.dim_in,):
            shape = v.shape[-1] if v.ndim else "a single number"
            raise ValueError(f"this sketch takes vectors of {self.dim_in} values, not {shape}")
        return apply(jnp.asarray(v, jnp.float32), *self.tables())

    def tables(self) -> tuple[Int[np.ndarray, "rounds o"], Int[np.ndarray, " i"]]:
        """Return the arguments `source` and `signs` of `apply`.

        `source` holds the index of the value that each round adds to each bucket.
        """
        return self._source, self._signs


@jax.jit
def apply(
    v: Float[Array, "... i"], source: Int[Array, "rounds o"], signs: Int[Array, " i"]
) -> Float[Array, "... o"]:
    """Return the sketch of `v` along the last axis, given `Sketch.tables`."""
    signed = v * jnp.expand_dims(signs.astype(v.dtype), tuple(range(v.ndim - 1)))
    return jnp.take(signed, source, axis=-1, mode="fill", fill_value=0).sum(axis=-2)
