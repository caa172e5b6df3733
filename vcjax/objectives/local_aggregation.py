"""Local aggregation: pulled to the cluster, pushed from the nearest others (Sec. 3.2, Eq. 3-4).

The background neighbors B_i are the `num_background` rows of the bank most similar to the
embedding. Only their threshold is needed, never which rows they are: it is selected exactly by the
bits of the similarities, from counts. On a bank split over devices only counts travel.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

_EPSILON = 1e-7  # released; the loss of a clip without close neighbor is -log of it, 16.118


def loss(
    embedding: Float[Array, "b d"],
    bank: Float[Array, "rows d"],
    labels: Int[Array, "runs n"],
    index: Int[Array, " b"],
    *,
    num_background: int,
    temperature: float,
) -> tuple[Float[Array, " b"], Bool[Array, " b"]]:
    """-log P(C_i and B_i | d) / P(B_i | d) per clip, and which clips have a close neighbor in B_i.

    C_i are the rows that share the clip's cluster in any of the runs. `bank` may have more rows
    than the n that are labelled; these do not count. Rows as similar as the last of B_i belong to
    it too. A clip whose C_i misses B_i has no gradient. The partition function of Eq. 2 cancels.
    """
    bank = jax.lax.stop_gradient(bank)
    logits = jnp.matmul(embedding, bank.T, precision="highest") / temperature
    labels = jnp.pad(labels, ((0, 0), (0, bank.shape[0] - labels.shape[1])), constant_values=-1)
    counts = labels[0] >= 0
    keys = jnp.where(counts[None, :], sortable(jax.lax.stop_gradient(logits)), 0)
    background = (keys >= kth_largest(keys, num_background)[:, None]) & counts[None, :]
    close = (labels[:, index, None] == labels[:, None, :]).any(axis=0)
    largest = jnp.max(logits, axis=1, where=background, initial=-jnp.inf, keepdims=True)
    weights = jnp.where(background, jnp.exp(logits - jax.lax.stop_gradient(largest)), 0.0)
    share = jnp.sum(weights, axis=1, where=close) / weights.sum(axis=1)
    return -jnp.log(share + _EPSILON), (close & background).any(axis=1)


def sortable(values: Float[Array, "b n"]) -> UInt32[Array, "b n"]:
    """Bits of float32 values, changed so that they sort as the values do; none is 0 but a NaN's."""
    bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.uint32)
    sign = jnp.uint32(1 << 31)
    return jnp.where(bits >= sign, ~bits, bits | sign)


def kth_largest(keys: UInt32[Array, "b n"], k: int) -> UInt32[Array, " b"]:
    """The k-th largest of each row (the smallest where there are fewer), two bits a pass."""
    k = min(k, keys.shape[1])

    def settle(step: Array, found: Array) -> Array:
        shift = (30 - 2 * step).astype(jnp.uint32)
        # how many of the three next digits leave at least k keys: these digits are nested
        digits = jnp.zeros_like(found)
        for digit in (1, 2, 3):
            candidate = found | (jnp.uint32(digit) << shift)
            digits += (keys >= candidate[:, None]).sum(axis=1) >= k
        return found | (digits << shift)

    return jax.lax.fori_loop(0, 16, settle, jnp.zeros(keys.shape[0], jnp.uint32))
