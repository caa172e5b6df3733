"""Count sketch: many values to few, inner products kept in expectation."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Sketch:
    """Count sketch p(psi) = P psi from `dim_in` values to `dim_out`, by hashing.

    Each value goes with a random sign to one bucket; every `dim_out` values in turn fill each
    bucket once, in random order. The same seed is the same sketch on any platform.
    """

    def __init__(self, dim_in: int, dim_out: int, seed: int):
        if dim_in < 1 or dim_out < 1:
            raise ValueError(f"a sketch needs positive sizes, not {dim_in} and {dim_out}")
        self.dim_in, self.dim_out, self.seed = dim_in, dim_out, seed
        bits = np.random.Philox(key=seed)  # its raw bits are the same in every version of NumPy
        num_rounds = -(-dim_in // dim_out)
        # what each round puts into each bucket: a gather, exact and in the same order on any
        # device, where a scatter's additions come in any order. dim_in: nothing.
        source = np.empty((num_rounds, dim_out), np.int32)
        for i in range(num_rounds):
            source[i] = i * dim_out + np.argsort(bits.random_raw(dim_out), kind="stable")
        self._source = np.minimum(source, dim_in)
        signs = np.where(np.arange(dim_in) < dim_in // 2, 1, -1).astype(np.int8)
        self._signs = signs[np.argsort(bits.random_raw(dim_in), kind="stable")]

    def transform(
        self, v: Float[np.ndarray, "... i"] | Float[Array, "... i"]
    ) -> Float[Array, "... o"]:
        """The sketches of vectors along the last axis."""
        if v.shape[-1] != self.dim_in:
            raise ValueError(f"this sketch takes {self.dim_in} values, not {v.shape[-1]}")
        return apply(jnp.asarray(v, jnp.float32), *self.tables())

    def tables(self) -> tuple[Int[np.ndarray, "rounds o"], Int[np.ndarray, " i"]]:
        """What `apply` takes: the value each round puts into each bucket, and the values' signs."""
        return self._source, self._signs


@jax.jit
def apply(
    v: Float[Array, "... i"], source: Int[Array, "rounds o"], signs: Int[Array, " i"]
) -> Float[Array, "... o"]:
    """The sketch that `source` and `signs` describe."""
    signed = v * jnp.expand_dims(signs.astype(v.dtype), tuple(range(v.ndim - 1)))
    return jnp.take(signed, source, axis=-1, mode="fill", fill_value=0).sum(axis=-2)
