"""Local aggregation: pull a clip to its clusters and push it from other neighbors (Sec. 3.2).

`reference_loss` is the paper's objective (Eq. 3-4) in plain JAX. `loss` returns the same values and
gradients for large banks that are split over devices:

- B_i is selected by the similarity of its last member, so no rows are sorted or gathered.
- Rows of the bank stay on their device. Only counts, sums and gradients are exchanged.
- The gradient has a closed form and is computed in the forward pass, so nothing of size [b, rows]
  is stored. The clips are compared with the bank in few chunks of bounded memory, which grows with
  the bank and not with the number of clips.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from vcjax.clustering.kmeans import UNLABELLED
from vcjax.objectives import inverted_file, top_k
from vcjax.runtime import checks, sharding

# As in the released code. Without a close neighbor in B_i the loss is -log(1e-7) = 16.118.
_EPSILON = 1e-7
_BLOCK = 512  # rows summed in float32 before their sums are added
_PART_BYTES = 512 << 20  # of the clips that a device compares with its rows at a time
_PAIR_BYTES = 9  # per clip and row: similarity (4), weight (4) and whether the row is close (1)


@checks.arguments
def reference_loss(
    embedding: Float[Array, "b d"],
    bank: Float[Array, "rows d"],
    labels: Int[Array, "runs n"],
    index: Int[Array, " b"],
    *,
    num_background: int,
    temperature: float,
) -> tuple[Float[Array, " b"], Bool[Array, " b"]]:
    """Return -log P(C_i and B_i | d) / P(B_i | d) of each clip as defined by Eq. 3-4.

    `loss` computes the same faster; see there for arguments and edge cases.
    """
    _check(bank, labels, index, num_background, temperature)
    bank = jax.lax.stop_gradient(bank[: labels.shape[1]])
    similarity = jnp.matmul(embedding, bank.T, precision="highest")  # [b, n]
    labeled = (labels[0] != UNLABELLED)[None, :]
    # B_i: the rows most similar to the embedding, including ties with the last
    similarity = jnp.where(labeled, similarity, -jnp.inf)
    most_similar, _ = jax.lax.top_k(similarity, min(num_background, len(bank)))
    background = labeled & (similarity >= most_similar[:, -1:])
    # C_i: the union over the runs of K-means of the cluster of clip i
    close = (labels[:, index, None] == labels[:, None, :]).any(axis=0)
    # P(j|d) of Eq. 2, times a constant that cancels in Eq. 3: exp(1 / temperature) / Z
    p = jnp.exp((similarity - 1) / temperature)
    p_background = jnp.sum(p, axis=1, where=background)  # P(B_i|d), Eq. 4
    p_close = jnp.sum(p, axis=1, where=background & close)  # P(C_i and B_i|d), Eq. 4
    return -jnp.log(p_close / p_background + _EPSILON), (background & close).any(axis=1)


@checks.arguments
def loss(
    embedding: Float[Array, "b d"],
    bank: Float[Array, "rows d"],
    labels: Int[Array, "runs n"],
    index: Int[Array, " b"],
    *,
    num_background: int,
    temperature: float,
    cells: inverted_file.InvertedFile | None = None,
    num_candidates: int = 0,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[Float[Array, " b"], Bool[Array, " b"]]:
    """Return the loss of Eq. 3 for each clip, and whether B_i contains a close neighbor.

    The close neighbors C_i are the rows that share a cluster with the clip in any run of K-means.
    The background neighbors B_i are the `num_background` rows most similar to the embedding, and
    all rows tied with the last of them. The gradient flows through the embedding only; it is zero
    for a clip whose B_i contains no close neighbor.

    Args:
      embedding: Embeddings of the clips, unit L2 norm.
      bank: Memory bank, unit L2 norm. Rows beyond the n labeled ones are padding and ignored.
      labels: Cluster of each row in each run. Rows whose first label is `UNLABELLED` are ignored.
      index: Row of the bank of each clip.
      num_background: Size of B_i; every labeled row if there are fewer.
      temperature: Temperature of Eq. 2.
      cells: Inverted file of the bank. If given, B_i is searched for in the nearest cells only.
      num_candidates: Number of rows taken from the nearest cells, over all devices.
      mesh: Devices over which the rows of the bank are split; None for a single device.

    Raises:
      ValueError: if shapes do not match, if `num_background` or `temperature` is not positive, or,
        outside of jitted code, if an index is not a labeled row or a value is not finite.
    """
    _check(bank, labels, index, num_background, temperature)
    if cells is not None:
        checks.count("num_candidates", num_candidates)
    if padding := bank.shape[0] - labels.shape[1]:
        labels = jnp.pad(labels, ((0, 0), (0, padding)), constant_values=UNLABELLED)
    options = _Options(num_background, num_candidates, temperature, mesh)
    return _loss(embedding, bank, labels, labels[:, index], cells, options)


def _check(bank: Any, labels: Any, index: Any, num_background: int, temperature: float) -> None:
    """Raise ValueError for arguments of `loss` without a meaning."""
    checks.count("num_background", num_background)
    checks.positive("temperature", temperature)
    if not 0 < labels.shape[1] <= len(bank) or not len(labels):
        raise ValueError(
            f"labels of shape [{labels.shape[0]}, {labels.shape[1]}] do not match a bank of "
            f"{len(bank)} rows; use [runs, n] with n from 1 to the number of rows"
        )
    checks.index("index", index, "b", end=labels.shape[1])
    if checks.has_values(labels) and (np.asarray(labels)[0] == UNLABELLED).all():
        raise ValueError("no row of labels is labeled; cluster the bank first")


class _Options(NamedTuple):
    """Static options of the loss, as in `loss`."""

    num_background: int
    num_candidates: int
    temperature: float
    mesh: jax.sharding.Mesh | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _loss(
    embedding: Float[Array, "b d"],
    bank: Float[Array, "rows d"],
    labels: Int[Array, "runs rows"],
    own: Int[Array, "runs b"],
    cells: inverted_file.InvertedFile | None,
    options: _Options,
) -> tuple[Float[Array, " b"], Bool[Array, " b"]]:
    losses, has_close, _ = _loss_and_gradient(
        embedding, bank, labels, own, cells, options, with_gradient=False
    )
    return losses, has_close


def _forward(
    embedding: Float[Array, "b d"],
    bank: Float[Array, "rows d"],
    labels: Int[Array, "runs rows"],
    own: Int[Array, "runs b"],
    cells: inverted_file.InvertedFile | None,
    options: _Options,
) -> tuple[tuple[Float[Array, " b"], Bool[Array, " b"]], Float[Array, "b d"]]:
    losses, has_close, gradient = _loss_and_gradient(
        embedding, bank, labels, own, cells, options, with_gradient=True
    )
    return (losses, has_close), gradient


def _backward(
    options: _Options,
    gradient: Float[Array, "b d"],
    cotangents: tuple[Float[Array, " b"], Any],
) -> tuple[Float[Array, "b d"], None, None, None, None]:
    return cotangents[0][:, None] * gradient, None, None, None, None


_loss.defvjp(_forward, _backward)


def _loss_and_gradient(
    embedding: Float[Array, "b d"],
    bank: Float[Array, "rows d"],
    labels: Int[Array, "runs rows"],
    own: Int[Array, "runs b"],
    cells: inverted_file.InvertedFile | None,
    options: _Options,
    *,
    with_gradient: bool,
) -> tuple[Float[Array, " b"], Bool[Array, " b"], Float[Array, "b d"]]:
    """Return losses, whether B_i and C_i meet, and gradients (zeros unless `with_gradient`)."""
    shard: Callable[..., tuple[Array, Array, Array]] = functools.partial(
        _loss_shard, options=options, with_gradient=with_gradient
    )
    if options.mesh:
        in_specs = (
            P(),
            P(sharding.AXIS),
            P(None, sharding.AXIS),
            P(),
            cells and inverted_file.SPECS,
        )
        shard = jax.shard_map(shard, mesh=options.mesh, in_specs=in_specs, out_specs=P())
    return shard(embedding, bank, labels, own, cells)


def _loss_shard(
    embedding: Float[Array, "b d"],
    bank: Float[Array, "r d"],
    labels: Int[Array, "runs r"],
    own: Int[Array, "runs b"],
    cells: inverted_file.InvertedFile | None,
    *,
    options: _Options,
    with_gradient: bool,
) -> tuple[Float[Array, " b"], Bool[Array, " b"], Float[Array, "b d"]]:
    """Compare all clips with the r rows of this device, in equal chunks of few clips."""
    num_clips, dim = embedding.shape
    num_chunks = -(-num_clips // clips_at_a_time(num_clips, dim, len(bank)))
    padding = -num_clips % num_chunks
    clips = jnp.pad(embedding, ((0, padding), (0, 0))).reshape(num_chunks, -1, dim)
    owns = jnp.pad(own.T, ((0, padding), (0, 0))).reshape(num_chunks, -1, len(own))

    def chunk(clips_and_owns: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        clips, own = clips_and_owns
        return _loss_chunk(
            clips, bank, labels, own, cells, options=options, with_gradient=with_gradient
        )

    chunks = jax.lax.map(chunk, (clips, owns))
    losses, has_close, gradient = (x.reshape(-1, *x.shape[2:])[:num_clips] for x in chunks)
    return losses, has_close, gradient


def clips_at_a_time(num_clips: int, dim: int, num_rows: int) -> int:
    """Return how many clips a device compares with its rows at a time, in chunks of equal size.

    Their intermediate values take at most 512 MiB, or as much as those of d/2 clips if that is
    more, which is 1.1 times the memory of the device's rows.

    Args:
      num_clips: Clips of the batch.
      dim: Dimension d of the embedding.
      num_rows: Rows of the bank on the device.
    """
    most = max(1, dim // 2, _PART_BYTES // (_PAIR_BYTES * num_rows))
    num_chunks = -(-num_clips // most)
    return -(-num_clips // num_chunks)


def _loss_chunk(
    embedding: Float[Array, "c d"],
    bank: Float[Array, "r d"],
    labels: Int[Array, "runs r"],
    own: Int[Array, "c runs"],
    cells: inverted_file.InvertedFile | None,
    *,
    options: _Options,
    with_gradient: bool,
) -> tuple[Float[Array, " c"], Bool[Array, " c"], Float[Array, "c d"]]:
    """Return losses, whether B_i and C_i meet, and gradients of a few clips over all devices."""
    axis = sharding.AXIS if options.mesh else None
    if cells is None:
        scores = _exact_scores(embedding, bank, labels)
    else:
        num_candidates = -(-options.num_candidates // (options.mesh.size if options.mesh else 1))
        scores = _approximate_scores(embedding, bank, labels, cells, min(num_candidates, len(bank)))
    bound = top_k.kth_largest(scores.similarity, options.num_background, axis=axis)
    background = scores.similarity >= bound[:, None]
    close = (own.T[:, :, None] == scores.labels).any(axis=0)
    # Embeddings and rows have unit norm: no similarity exceeds 1, so exp cannot overflow.
    p = jnp.where(background, jnp.exp((scores.similarity - 1) / options.temperature), 0.0)
    p_close = jnp.where(close, p, 0.0)
    is_close = (close & background).astype(jnp.float32)
    sums = jax.lax.platform_dependent(
        p, p_close, is_close, cpu=_blockwise_sums, default=_plain_sums
    )
    total, total_close, num_close = jax.lax.psum(sums, axis) if axis else sums
    share = total_close / total  # P(C_i and B_i | d) / P(B_i | d)
    gradient = jnp.zeros_like(embedding)
    if with_gradient:
        # d share / d similarity_j = p_j (close_j - share) / (total * temperature)
        gradient = _weighted_rows(p * (close - share[:, None]), bank, scores.rows)
        gradient = jax.lax.psum(gradient, axis) if axis else gradient
        gradient /= -(options.temperature * total * (share + _EPSILON))[:, None]
    return -jnp.log(share + _EPSILON), num_close > 0, gradient


class _Scores(NamedTuple):
    """Similarities of c clips to m rows of the bank each."""

    similarity: Float[Array, "c m"]  # -inf in place of a row that does not count
    labels: Int[Array, "runs c m"]  # of the rows; [runs, 1, m] if the same for all clips
    rows: Int[Array, "c m"] | None  # None if column j is row j of the bank for every clip


def _exact_scores(
    embedding: Float[Array, "c d"], bank: Float[Array, "r d"], labels: Int[Array, "runs r"]
) -> _Scores:
    """Return the similarities of the clips to all rows."""
    similarity = jnp.matmul(embedding, bank.T, precision="highest")
    similarity = jnp.where((labels[0] != UNLABELLED)[None, :], similarity, -jnp.inf)
    return _Scores(similarity, labels[:, None], None)


def _approximate_scores(
    embedding: Float[Array, "c d"],
    bank: Float[Array, "r d"],
    labels: Int[Array, "runs r"],
    cells: inverted_file.InvertedFile,
    num_candidates: int,
) -> _Scores:
    """Return the similarities of each clip to `num_candidates` rows of its nearest cells."""
    rows, valid = inverted_file.probe(embedding, cells, num_candidates)

    def similarities(clip_and_rows: tuple[Array, Array]) -> Array:
        clip, rows = clip_and_rows
        return jnp.matmul(bank[rows], clip, precision="highest")

    # One clip at a time: the gathered rows of all clips would be d times their similarities.
    similarity = jax.lax.map(similarities, (embedding, rows))
    return _Scores(jnp.where(valid, similarity, -jnp.inf), labels[:, rows], rows)


def _weighted_rows(
    weights: Float[Array, "c m"], bank: Float[Array, "r d"], rows: Int[Array, "c m"] | None
) -> Float[Array, "c d"]:
    """Return for each clip the sum of its rows of the bank times their weights."""
    if rows is None:
        return jnp.matmul(weights, bank, precision="highest")

    def weighted(weights_and_rows: tuple[Array, Array]) -> Array:
        weights, rows = weights_and_rows
        return jnp.matmul(weights, bank[rows], precision="highest")

    return jax.lax.map(weighted, (weights, rows))


def _blockwise_sums(*operands: Float[Array, "c r"]) -> list[Float[Array, " c"]]:
    """Return the sums over the rows, taken in blocks to limit the rounding error in float32.

    On CPUs, where XLA adds one value after the other.
    """
    whole = operands[0].shape[1] // _BLOCK * _BLOCK
    blocks = [x[:, :whole].reshape(len(x), -1, _BLOCK) for x in operands]
    block_sums = top_k.sums(top_k.sums(blocks, axis=2))
    remainders = top_k.sums([x[:, whole:] for x in operands])
    return [a + b for a, b in zip(block_sums, remainders, strict=True)]


def _plain_sums(*operands: Float[Array, "c r"]) -> list[Float[Array, " c"]]:
    """Return the sums over the rows on accelerators, where XLA adds in trees.

    Blocks would be another layout of the operands there, which XLA would store.
    """
    return [x.sum(axis=1) for x in operands]
