"""Instance recognition: every video a class of its own (Sec. 3.1, Eq. 2), three estimators.

All take unit embeddings and the memory bank, of which the first `num_rows` rows count, and give a
loss per clip. The gradient flows through the embedding only.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.nn import logsumexp
from jaxtyping import Array, Float, Int

from vcjax.objectives import memory_bank

# The normaliser that Wu et al. (2018) estimated once on ImageNet, and the released code keeps.
IMAGENET_CONSTANT, IMAGENET_SIZE = 2876934.2, 1281167


def sampled_softmax(
    embedding: Float[Array, "b d"],
    bank: Float[Array, "rows d"],
    index: Int[Array, " b"],
    key: Array,
    *,
    num_rows: int,
    num_negatives: int,
    temperature: float,
) -> Float[Array, " b"]:
    """-log P(i|d) of Eq. 2, its sum over the own row and `num_negatives` uniform others."""
    own, noise = _own_and_noise(embedding, bank, index, key, num_rows, num_negatives, temperature)
    return logsumexp(jnp.concatenate([own[:, None], noise], axis=1), axis=1) - own


def full_softmax(
    embedding: Float[Array, "b d"],
    bank: Float[Array, "rows d"],
    index: Int[Array, " b"],
    key: Array,
    *,
    num_rows: int,
    temperature: float,
) -> Float[Array, " b"]:
    """-log P(i|d) of Eq. 2, summed over the whole bank. `key` is not used."""
    del key
    bank = jax.lax.stop_gradient(bank)
    logits = jnp.matmul(embedding, bank.T, precision="highest") / temperature
    counts = jnp.arange(bank.shape[0]) < num_rows
    own = jnp.take_along_axis(logits, index[:, None], axis=1)[:, 0]
    return logsumexp(logits, axis=1, where=counts[None, :]) - own


def nce(
    embedding: Float[Array, "b d"],
    bank: Float[Array, "rows d"],
    index: Int[Array, " b"],
    key: Array,
    *,
    num_rows: int,
    num_negatives: int,
    temperature: float,
    scale_constant: bool = True,
) -> Float[Array, " b"]:
    """Noise-contrastive estimate with uniform noise and a fixed normaliser (Wu et al. 2018, Eq. 7).

    `scale_constant` fits the normaliser to the collection; the released code does not.
    """
    own, noise = _own_and_noise(embedding, bank, index, key, num_rows, num_negatives, temperature)
    scale = num_rows / IMAGENET_SIZE if scale_constant else 1.0
    log_normaliser = jnp.log(IMAGENET_CONSTANT * scale)
    prior = num_negatives / num_rows
    data = jnp.exp(own - log_normaliser)
    noise = jnp.exp(noise - log_normaliser)
    log_data = jnp.log(data / (data + prior + 1e-7))
    log_noise = jnp.log(prior / (noise + prior + 1e-7)).sum(axis=1)
    return -(log_data + log_noise)


ESTIMATORS: dict[str, Callable[..., Array]] = {
    "sampled_softmax": sampled_softmax,
    "full_softmax": full_softmax,
    "nce": nce,
}


def _own_and_noise(
    embedding: Array,
    bank: Array,
    index: Array,
    key: Array,
    num_rows: int,
    num_negatives: int,
    temperature: float,
) -> tuple[Float[Array, " b"], Float[Array, "b k"]]:
    """Logits of each clip's own row, and of rows drawn uniformly with replacement."""
    bank = jax.lax.stop_gradient(bank)
    drawn = jax.random.randint(key, (embedding.shape[0], num_negatives), 0, num_rows)
    own = jnp.einsum("bd,bd->b", embedding, memory_bank.gather(bank, index), precision="highest")
    noise = jnp.einsum("bd,bkd->bk", embedding, bank[drawn], precision="highest")
    return own / temperature, noise / temperature
