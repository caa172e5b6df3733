"""Local aggregation: pulled to the cluster, pushed from the nearest others (Sec. 3.2, Eq. 3-4).

The background neighbors B_i are the `num_background` rows of the bank most similar to the
embedding. Only their threshold is needed, never which rows they are. A bank split over devices
stays where it is: counts and sums travel. Besides its r rows of the bank, of d float32 values, a
device holds similarities, and a few arrays of their size, for at most d/2 of the b clips at a time:
memory follows that of the bank and not the number of clips.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from vcjax.clustering.kmeans import UNLABELLED
from vcjax.objectives import inverted_file, top_k
from vcjax.runtime import sharding

_EPSILON = 1e-7  # released; the loss of a clip without close neighbor is -log of it, 16.118
_BLOCK = 512  # rows


def loss(
    embedding: Float[Array, "b d"],
    bank: Float[Array, "rows d"],
    labels: Int[Array, "runs n"],
    index: Int[Array, " b"],
    *,
    num_background: int,
    temperature: float,
    cells: inverted_file.Cells | None = None,
    num_candidates: int = 0,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[Float[Array, " b"], Bool[Array, " b"]]:
    """-log P(C_i and B_i | d) / P(B_i | d) per clip, and which clips have a close neighbor in B_i.

    C_i are the rows that share the clip's cluster in any of the runs. Rows labelled `UNLABELLED`,
    and those of `bank` beyond the n that have labels, do not count. Rows as similar as the last of
    B_i belong to it too. A clip whose C_i misses B_i has no gradient. The partition function of
    Eq. 2 cancels.
    With `cells`, B_i is sought among `num_candidates` rows of the nearest cells alone. `mesh` is
    that over which the rows of the bank are split.
    """
    if padding := bank.shape[0] - labels.shape[1]:
        labels = jnp.pad(labels, ((0, 0), (0, padding)), constant_values=UNLABELLED)
    options = _Options(num_background, num_candidates, temperature, mesh)
    return _loss(embedding, bank, labels, labels[:, index], cells, options)


class _Options(NamedTuple):
    num_background: int
    num_candidates: int
    temperature: float
    mesh: jax.sharding.Mesh | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _loss(*arguments: Any) -> tuple[Array, Array]:
    return _over_mesh(*arguments, with_gradient=False)[0]


def _forward(*arguments: Any) -> tuple[tuple[Array, Array], Array]:
    return _over_mesh(*arguments, with_gradient=True)


def _backward(
    options: _Options, gradient: Array, wanted: tuple[Array, Any]
) -> tuple[Array, None, None, None, None]:
    return wanted[0][:, None] * gradient, None, None, None, None


_loss.defvjp(_forward, _backward)


def _over_mesh(
    embedding: Float[Array, "b d"],
    bank: Float[Array, "rows d"],
    labels: Int[Array, "runs rows"],
    own: Int[Array, "runs b"],
    cells: inverted_file.Cells | None,
    options: _Options,
    *,
    with_gradient: bool,
) -> tuple[tuple[Array, Array], Array]:
    """(Losses, whether there is a close neighbor), and the losses' gradients."""
    on_device = functools.partial(_on_device, options=options, with_gradient=with_gradient)
    if options.mesh:
        in_specs = (
            P(),
            P(sharding.AXIS),
            P(None, sharding.AXIS),
            P(),
            cells and inverted_file.SPECS,
        )
        on_device = jax.shard_map(on_device, mesh=options.mesh, in_specs=in_specs, out_specs=P())
    losses, has_close, gradient = on_device(embedding, bank, labels, own, cells)
    return (losses, has_close), gradient


def _on_device(
    embedding: Float[Array, "b d"],
    bank: Float[Array, "r d"],
    labels: Int[Array, "runs r"],
    own: Int[Array, "runs b"],
    cells: inverted_file.Cells | None,
    **settings: Any,
) -> tuple[Array, Array, Array]:
    """The above from the rows of this device, some clips at a time."""
    num_clips, dim = embedding.shape
    num_parts = -(-num_clips // max(1, dim // 2))
    padding = -num_clips % num_parts
    clips = jnp.pad(embedding, ((0, padding), (0, 0))).reshape(num_parts, -1, dim)
    owns = jnp.pad(own.T, ((0, padding), (0, 0))).reshape(num_parts, -1, len(own))
    compared = _with_all if cells is None else functools.partial(_with_some, cells=cells)
    parts = jax.lax.map(
        lambda part: _few_clips(part[0], compared, bank, labels, part[1], **settings),
        (clips, owns),
    )
    losses, has_close, gradient = (x.reshape(-1, *x.shape[2:])[:num_clips] for x in parts)
    return losses, has_close, gradient


class _Compared(NamedTuple):
    """Clips and the m rows that each is compared with."""

    similarity: Float[Array, "c m"]  # -inf: no row
    labels: Int[Array, "runs c m"]  # or 1 for c: the same for all clips
    weighted: Callable[[Float[Array, "c m"]], Float[Array, "c d"]]  # sums of the rows


def _with_all(
    embedding: Float[Array, "c d"],
    bank: Float[Array, "r d"],
    labels: Int[Array, "runs r"],
    options: _Options,
) -> _Compared:
    similarity = jnp.matmul(embedding, bank.T, precision="highest")
    similarity = jnp.where((labels[0] != UNLABELLED)[None, :], similarity, -jnp.inf)
    return _Compared(
        similarity, labels[:, None], lambda slope: jnp.matmul(slope, bank, precision="highest")
    )


def _with_some(
    embedding: Float[Array, "c d"],
    bank: Float[Array, "r d"],
    labels: Int[Array, "runs r"],
    options: _Options,
    *,
    cells: inverted_file.Cells,
) -> _Compared:
    """A clip at a time: the rows of all would be many times the similarities."""
    count = -(-options.num_candidates // (options.mesh.size if options.mesh else 1))
    rows, there = inverted_file.candidates(embedding, cells, min(count, len(bank)))

    def times(a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, precision="highest")

    similarity = jax.lax.map(lambda x: times(bank[x[1]], x[0]), (embedding, rows))
    return _Compared(
        jnp.where(there, similarity, -jnp.inf),
        labels[:, rows],
        lambda slope: jax.lax.map(lambda x: times(x[0], bank[x[1]]), (slope, rows)),
    )


def _few_clips(
    embedding: Float[Array, "c d"],
    compared: Callable[..., _Compared],
    bank: Float[Array, "r d"],
    labels: Int[Array, "runs r"],
    own: Int[Array, "c runs"],
    *,
    options: _Options,
    with_gradient: bool,
) -> tuple[Float[Array, " c"], Bool[Array, " c"], Float[Array, "c d"]]:
    axis = sharding.AXIS if options.mesh else None
    similarity, labels, weighted = compared(embedding, bank, labels, options)
    bound = top_k.selecting(similarity, options.num_background, axis=axis)
    background = similarity >= bound[:, None]
    close = (own.T[:, :, None] == labels).any(axis=0)
    # rows and embedding have unit norm: 1 is the largest similarity that there can be
    weights = jnp.where(background, jnp.exp((similarity - 1) / options.temperature), 0.0)
    of_close = jnp.where(close, weights, 0.0)
    has_close = (close & background).astype(jnp.float32)
    sums = _sums_by_blocks([weights, of_close, has_close])
    total, of_close, has_close = jax.lax.psum(sums, axis) if axis else sums
    share = of_close / total
    gradient = jnp.zeros_like(embedding)
    if with_gradient:
        # d share / d similarity_j = weight_j (close_j - share) / (total * temperature)
        gradient = weighted(weights * (close - share[:, None]))
        gradient = jax.lax.psum(gradient, axis) if axis else gradient
        gradient /= -(options.temperature * total * (share + _EPSILON))[:, None]
    return -jnp.log(share + _EPSILON), has_close > 0, gradient


def _sums_by_blocks(operands: Sequence[Float[Array, "c r"]]) -> list[Float[Array, " c"]]:
    """Sums over the rows, of blocks first: a running sum in float32 would gather errors."""
    whole = operands[0].shape[1] // _BLOCK * _BLOCK
    blocks = [x[:, :whole].reshape(len(x), -1, _BLOCK) for x in operands]
    of_blocks = top_k.sums(top_k.sums(blocks, axis=2))
    return [
        a + b for a, b in zip(of_blocks, top_k.sums([x[:, whole:] for x in operands]), strict=True)
    ]
