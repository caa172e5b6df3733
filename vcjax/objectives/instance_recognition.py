"""Instance recognition: every video is a class of its own (Sec. 3.1, Eq. 2), in three estimators.

Each estimator takes unit embeddings, the memory bank, and the row of the bank of each clip, and
returns a loss per clip. Rows of the bank from `num_rows` on are padding and ignored. The gradient
flows through the embedding only.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.nn import logsumexp
from jaxtyping import Array, Float, Int

from vcjax.objectives import memory_bank

# Normalizer Z that Wu et al. (2018) estimated on ImageNet; the released code keeps it for videos.
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
    """Return -log P(i|d) of Eq. 2 with its denominator restricted to sampled rows.

    The denominator sums over the clip's own row and `num_negatives` rows drawn uniformly with
    replacement, as Sec. 4.2 approximates it with 4096 negatives.

    Args:
      embedding: Embeddings of the clips, unit L2 norm.
      bank: Memory bank, unit L2 norm.
      index: Row of the bank of each clip.
      key: Random key of the negatives.
      num_rows: Number of rows of the bank that are videos.
      num_negatives: Number of negatives per clip.
      temperature: Temperature of Eq. 2.
    """
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
    """Return -log P(i|d) of Eq. 2 with its denominator over the whole bank.

    Args:
      embedding: Embeddings of the clips, unit L2 norm.
      bank: Memory bank, unit L2 norm.
      index: Row of the bank of each clip.
      key: Ignored; accepted for the signature shared by all estimators.
      num_rows: Number of rows of the bank that are videos.
      temperature: Temperature of Eq. 2.
    """
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
    """Return the noise-contrastive loss with uniform noise and a fixed Z (Wu et al. 2018, Eq. 7).

    Args:
      embedding: Embeddings of the clips, unit L2 norm.
      bank: Memory bank, unit L2 norm.
      index: Row of the bank of each clip.
      key: Random key of the noise.
      num_rows: Number of rows of the bank that are videos.
      num_negatives: Number of noise rows per clip, drawn uniformly with replacement.
      temperature: Temperature of Eq. 2.
      scale_constant: Scale the normalizer Z of ImageNet to `num_rows`. The released code does not.
    """
    own, noise = _own_and_noise(embedding, bank, index, key, num_rows, num_negatives, temperature)
    scale = num_rows / IMAGENET_SIZE if scale_constant else 1.0
    log_normalizer = jnp.log(IMAGENET_CONSTANT * scale)
    prior = num_negatives / num_rows
    data = jnp.exp(own - log_normalizer)
    noise = jnp.exp(noise - log_normalizer)
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
    """Return the logits of each clip's own row, and of rows drawn uniformly with replacement."""
    bank = jax.lax.stop_gradient(bank)
    drawn = jax.random.randint(key, (embedding.shape[0], num_negatives), 0, num_rows)
    own = jnp.einsum("bd,bd->b", embedding, memory_bank.gather(bank, index), precision="highest")
    noise = jnp.einsum("bd,bkd->bk", embedding, bank[drawn], precision="highest")
    return own / temperature, noise / temperature
