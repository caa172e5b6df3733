"""Instance recognition: every video is a class of its own (Sec. 3.1, Eq. 2), in three estimators.

Each estimator takes unit embeddings, the memory bank, and the row of the bank of each clip, and
returns a loss per clip. Rows of the bank from `num_rows` on are padding and ignored. The gradient
flows through the embedding only. Shapes that do not match and counts or temperatures that are not
positive raise ValueError, and so do, outside of jitted code, values that are not finite.

If the bank is split over devices, its rows stay there: the devices exchange embeddings [b, d] and
similarities [b, 1 + num_negatives], and each device reads only the drawn rows that it holds.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import logsumexp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from vcjax.runtime import checks, sharding

# Normalizer Z that Wu et al. (2018) estimated on ImageNet; the released code keeps it for videos.
IMAGENET_CONSTANT, IMAGENET_SIZE = 2876934.2, 1281167
_CHUNK = 16_384  # pairs of clip and row compared at once on a device: 8 MB of rows at d = 128


@checks.arguments
def sampled_softmax(
    embedding: Float[Array, "b d"],
    bank: Float[Array, "rows d"],
    index: Int[Array, " b"],
    key: Array,
    *,
    num_rows: int,
    num_negatives: int,
    temperature: float,
    mesh: jax.sharding.Mesh | None = None,
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
      mesh: Devices over which the rows of the bank are split; None for a single device.
    """
    checks.count("num_negatives", num_negatives)
    _check(bank, index, num_rows, temperature)
    rows = _own_and_drawn_rows(index, key, num_rows, num_negatives)
    logits = _similarities(embedding, bank, rows, mesh) / temperature
    return logsumexp(logits, axis=1) - logits[:, 0]


@checks.arguments
def full_softmax(
    embedding: Float[Array, "b d"],
    bank: Float[Array, "rows d"],
    index: Int[Array, " b"],
    key: Array,
    *,
    num_rows: int,
    temperature: float,
    mesh: jax.sharding.Mesh | None = None,
) -> Float[Array, " b"]:
    """Return -log P(i|d) of Eq. 2 with its denominator over the whole bank.

    Args:
      embedding: Embeddings of the clips, unit L2 norm.
      bank: Memory bank, unit L2 norm.
      index: Row of the bank of each clip.
      key: Ignored; accepted for the signature shared by all estimators.
      num_rows: Number of rows of the bank that are videos.
      temperature: Temperature of Eq. 2.
      mesh: Ignored, as `key`; XLA splits the matrix product as the bank is split.
    """
    del key, mesh
    _check(bank, index, num_rows, temperature)
    bank = jax.lax.stop_gradient(bank)
    logits = jnp.matmul(embedding, bank.T, precision="highest") / temperature
    counts = jnp.arange(bank.shape[0]) < num_rows
    own = jnp.take_along_axis(logits, index[:, None], axis=1)[:, 0]
    return logsumexp(logits, axis=1, where=counts[None, :]) - own


@checks.arguments
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
    mesh: jax.sharding.Mesh | None = None,
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
      mesh: Devices over which the rows of the bank are split; None for a single device.
    """
    checks.count("num_negatives", num_negatives)
    _check(bank, index, num_rows, temperature)
    rows = _own_and_drawn_rows(index, key, num_rows, num_negatives)
    logits = _similarities(embedding, bank, rows, mesh) / temperature
    scale = num_rows / IMAGENET_SIZE if scale_constant else 1.0
    log_normalizer = jnp.log(IMAGENET_CONSTANT * scale)
    prior = num_negatives / num_rows
    data = jnp.exp(logits[:, 0] - log_normalizer)
    noise = jnp.exp(logits[:, 1:] - log_normalizer)
    log_data = jnp.log(data / (data + prior + 1e-7))
    log_noise = jnp.log(prior / (noise + prior + 1e-7)).sum(axis=1)
    return -(log_data + log_noise)


ESTIMATORS: dict[str, Callable[..., Array]] = {
    "sampled_softmax": sampled_softmax,
    "full_softmax": full_softmax,
    "nce": nce,
}


def _check(bank: Any, index: Any, num_rows: int, temperature: float) -> None:
    checks.positive("temperature", temperature)
    checks.count("num_rows", num_rows)
    if num_rows > len(bank):
        raise ValueError(f"num_rows is {num_rows}, but the bank has {len(bank)} rows")
    checks.index("index", index, "b", end=num_rows)


def _own_and_drawn_rows(
    index: Int[Array, " b"], key: Array, num_rows: int, num_negatives: int
) -> Int[Array, "b m"]:
    """Return each clip's own row, followed by rows drawn uniformly with replacement."""
    drawn = jax.random.randint(key, (len(index), num_negatives), 0, num_rows)
    return jnp.concatenate([jnp.asarray(index)[:, None].astype(drawn.dtype), drawn], axis=1)


def _similarities(
    embedding: Float[Array, "b d"],
    bank: Float[Array, "rows d"],
    rows: Int[Array, "b m"],
    mesh: jax.sharding.Mesh | None,
) -> Float[Array, "b m"]:
    """Return the similarity of each clip to its m rows of the bank."""
    bank = jax.lax.stop_gradient(bank)
    if mesh is None or mesh.size == 1:
        return jnp.einsum("bd,bmd->bm", embedding, bank[rows], precision="highest")
    num_clips = len(embedding)
    padding = ((0, -num_clips % mesh.size), (0, 0))
    shard = jax.shard_map(
        _similarities_shard,
        mesh=mesh,
        in_specs=(P(), P(sharding.AXIS), P()),
        out_specs=P(sharding.AXIS),
    )
    return shard(jnp.pad(embedding, padding), bank, jnp.pad(rows, padding))[:num_clips]


def _similarities_shard(
    embedding: Float[Array, "b d"], bank: Float[Array, "r d"], rows: Int[Array, "b m"]
) -> Float[Array, "c m"]:
    """Return this device's c clips of the similarities; each device computes those to its r rows.

    The pairs of clip and row whose row is on this device are listed first and processed in chunks;
    chunks without such pairs are skipped. The work of a device thus follows the rows that it holds,
    and the result is exact however unevenly the draws fall.
    """
    num_drawn = rows.shape[1]
    # Varying before the loop: the gradient is then summed over devices once, after the loop. A
    # sum inside would be skipped by some devices only, and hang.
    embedding = jax.lax.pcast(embedding, sharding.AXIS, to="varying")
    local = rows.reshape(-1) - jax.lax.axis_index(sharding.AXIS) * len(bank)
    held = (local >= 0) & (local < len(bank))
    chunk = min(_CHUNK, rows.size)
    num_chunks = -(-rows.size // chunk)
    pairs = jnp.flatnonzero(held, size=num_chunks * chunk, fill_value=rows.size)

    def compute(pairs: Int[Array, " p"]) -> Float[Array, " p"]:
        # Full float32 precision, since this is no matrix product.
        return (embedding[pairs // num_drawn] * bank[local[pairs]]).sum(axis=1)

    def skip(pairs: Int[Array, " p"]) -> Float[Array, " p"]:
        return jax.lax.pcast(jnp.zeros(chunk, embedding.dtype), sharding.AXIS, to="varying")

    # Recomputed for the gradient: the gathered rows would take d times the similarities' memory.
    # Outside of `cond`, which would store a copy of the bank per chunk.
    @jax.checkpoint
    def one_chunk(pairs: Int[Array, " p"]) -> Float[Array, " p"]:
        return jax.lax.cond(pairs[0] < rows.size, compute, skip, pairs)

    values = jax.lax.map(one_chunk, pairs.reshape(num_chunks, chunk))
    similarities = jnp.zeros(rows.size, values.dtype)
    similarities = similarities.at[pairs].set(values.reshape(-1), mode="drop")
    return jax.lax.psum_scatter(similarities.reshape(rows.shape), sharding.AXIS, tiled=True)
