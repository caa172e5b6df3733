"""Local aggregation loss against a bank of the size of Kinetics; peer: `lax.top_k`."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vcjax.bench import _timing
from vcjax.objectives import inverted_file, local_aggregation
from vcjax.runtime import sharding

NUM_ROWS, DIM, BATCH = 235_000, 128, 256
NUM_BACKGROUND, NUM_CLUSTERS, NUM_RUNS = 4096, 6000, 3
NUM_MANY, NUM_CANDIDATES = 1_000_000, 16_384
TEMPERATURE = 0.07


def cases() -> Iterator[dict[str, Any]]:
    """Yield the loss alone, the loss with its gradient, and the loss among candidates."""
    generator = np.random.default_rng(0)
    bank, embedding = (
        jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))
        for x in (generator.standard_normal((n, DIM), np.float32) for n in (NUM_ROWS, BATCH))
    )
    labels = jnp.asarray(
        generator.integers(NUM_CLUSTERS, size=(NUM_RUNS, NUM_ROWS), dtype=np.int32)
    )
    index = jnp.asarray(generator.permutation(NUM_ROWS)[:BATCH])
    product = 2 * BATCH * NUM_ROWS * DIM

    def by_threshold(embedding: Array) -> Float[Array, ""]:
        return mean_loss(embedding, bank, labels, index)

    def by_top_k(embedding: Array) -> Float[Array, ""]:
        return _top_k_loss(embedding, bank, labels, index).mean()

    for text, products, of in (("loss", 1, _alone), ("loss and gradient", 2, jax.value_and_grad)):
        ours, peer = (_seconds(jax.jit(of(f)), embedding) for f in (by_threshold, by_top_k))
        yield _timing.case(
            "la_loss",
            f"{text}, {BATCH} x {NUM_ROWS:,} x {DIM}",
            ours,
            peer=("lax.top_k", peer),
            flops=products * product,
            num_bytes=products * bank.nbytes,
        )

    yield _among_candidates()


def mean_loss(
    embedding: Float[Array, "b d"],
    bank: Float[Array, "rows d"],
    labels: Int[Array, "runs n"],
    index: Int[Array, " b"],
    **options: Any,
) -> Float[Array, ""]:
    """Return the mean loss of a batch with the paper's settings; `options` go to the loss."""
    losses, _ = local_aggregation.loss(
        embedding,
        bank,
        labels,
        index,
        num_background=NUM_BACKGROUND,
        temperature=TEMPERATURE,
        **options,
    )
    return losses.mean()


def _among_candidates() -> dict[str, Any]:
    """Time the loss among candidates against the exact loss, on a clustered bank."""
    bank, centers, labels = _clustered()
    devices, index = sharding.make(1), jnp.arange(BATCH) * (NUM_MANY // BATCH)
    cells = inverted_file.make(centers, labels[0], devices)
    recall = inverted_file.recall(
        bank,
        cells,
        num_rows=NUM_MANY,
        num_background=NUM_BACKGROUND,
        num_candidates=NUM_CANDIDATES,
        mesh=devices,
    )

    def seconds(cells: inverted_file.InvertedFile | None, num_candidates: int) -> float:
        loss = functools.partial(mean_loss, num_candidates=num_candidates)
        run = jax.jit(jax.value_and_grad(loss))
        return _timing.median_seconds(lambda: run(bank[index], bank, labels, index, cells=cells))

    return _timing.case(
        "la_loss",
        f"loss and gradient among {NUM_CANDIDATES:,} of {NUM_MANY:,}, recall {recall:.3f}",
        seconds(cells, NUM_CANDIDATES),
        peer=("all rows", seconds(None, 0)),
    )


def _clustered() -> tuple[Array, Array, Array]:
    """Return a bank with two levels of clusters, the centers of the finer level, and labels."""
    generator = np.random.default_rng(2)
    coarse = generator.standard_normal((NUM_CLUSTERS // 60, DIM), np.float32)
    centers = coarse[generator.integers(len(coarse), size=NUM_CLUSTERS)]
    centers = centers + 0.7 * generator.standard_normal(centers.shape, np.float32)
    labels = generator.integers(NUM_CLUSTERS, size=(NUM_RUNS, NUM_MANY), dtype=np.int32)
    rows = centers[labels[0]] + 0.7 * generator.standard_normal((NUM_MANY, DIM), np.float32)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return jnp.asarray(rows / length), jnp.asarray(centers / length.mean()), jnp.asarray(labels)


def _seconds(function: Callable[..., Any], embedding: Array) -> float:
    return _timing.median_seconds(lambda: function(embedding))


def _alone(function: Callable[..., Array]) -> Callable[..., Array]:
    return function


def _top_k_loss(
    embedding: Float[Array, "b d"],
    bank: Float[Array, "n d"],
    labels: Int[Array, "runs n"],
    index: Int[Array, " b"],
) -> Float[Array, " b"]:
    similarity = jnp.matmul(embedding, bank.T, precision="highest")
    top, rows = jax.lax.top_k(similarity, NUM_BACKGROUND)
    close = (labels[:, rows] == labels[:, index][:, :, None]).any(axis=0)
    # With a slice of `top`, XLA on CPUs would sort all rows instead of selecting the largest.
    weights = jnp.exp((top - 1) / TEMPERATURE)
    return -jnp.log(jnp.sum(weights, axis=1, where=close) / weights.sum(axis=1) + 1e-7)
