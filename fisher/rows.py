"""Rows from wherever they come, in pieces of a fixed size."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

# An array (or memory map) of rows, or a function that yields arrays of rows, anew at each call.
Rows = Float[np.ndarray, "n d"] | Float[Array, "n d"] | Callable[[], Iterable[np.ndarray]]

_PIECE_ROWS = 65536


class Moments(NamedTuple):
    """Of all rows."""

    num_rows: int
    mean: Float[np.ndarray, " d"]
    variance: Float[np.ndarray, " d"]


def pieces(x: Rows, num_rows: int = _PIECE_ROWS) -> Iterator[Float[np.ndarray, "m d"]]:
    """Arrays of at most `num_rows` rows, in order."""
    for array in x() if callable(x) else (x,):
        if array.ndim != 2:
            raise ValueError(f"rows are an array [n, d], not of shape {array.shape}")
        for begin in range(0, len(array), num_rows):
            yield np.asarray(array[begin : begin + num_rows])


def moments(x: Rows) -> Moments:
    """Number, mean and variance of the rows, in float64.

    Raises ValueError where there is none, or a value is not finite.
    """
    count, mean, scatter = 0, np.zeros(0), np.zeros(0)
    for piece in pieces(x):
        piece = piece.astype(np.float64)
        if not np.isfinite(piece).all():
            bad = count + int(np.flatnonzero(~np.isfinite(piece).all(axis=1))[0])
            raise ValueError(f"row {bad} has a value that is not finite; leave such rows out")
        own_mean = piece.mean(axis=0)
        own_scatter = ((piece - own_mean) ** 2).sum(axis=0)
        if not count:
            count, mean, scatter = len(piece), own_mean, own_scatter
            continue
        if len(own_mean) != len(mean):
            raise ValueError(f"rows of {len(mean)} and of {len(own_mean)} values in one collection")
        total, apart = count + len(piece), own_mean - mean
        scatter = scatter + own_scatter + apart**2 * (count * len(piece) / total)
        mean, count = mean + apart * (len(piece) / total), total
    if not count:
        raise ValueError("there are no rows to fit to")
    return Moments(count, mean, scatter / count)


def at(x: Rows, indices: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m d"]:
    """The rows at `indices`, which ascend."""
    if not callable(x):
        return np.asarray(x[indices], np.float32)
    chosen, begin = [], 0
    for piece in pieces(x):
        inside = indices[(indices >= begin) & (indices < begin + len(piece))] - begin
        chosen.append(piece[inside].astype(np.float32))
        begin += len(piece)
    return np.concatenate(chosen)


def chunks(
    x: Rows, num_blocks: int, block_rows: int
) -> Iterator[tuple[Float[np.ndarray, "b r d"], Int[np.ndarray, " b"]]]:
    """All rows, in chunks of `num_blocks` blocks of `block_rows` rows, and the rows in each block.

    Every block but the last ones is full; what is not a row is 0. A chunk is never written again.
    """
    chunk_rows, filled, chunk = num_blocks * block_rows, 0, np.zeros((0, 0), np.float32)
    for piece in pieces(x):
        while len(piece):
            if not filled:
                chunk = np.zeros((chunk_rows, piece.shape[1]), np.float32)
            taken = min(chunk_rows - filled, len(piece))
            chunk[filled : filled + taken] = piece[:taken]
            piece, filled = piece[taken:], filled + taken
            if filled == chunk_rows:
                yield (
                    chunk.reshape(num_blocks, block_rows, -1),
                    np.full(num_blocks, block_rows, np.int32),
                )
                filled = 0
    if filled:
        begins = np.arange(num_blocks) * block_rows
        counts = np.clip(filled - begins, 0, block_rows).astype(np.int32)
        yield chunk.reshape(num_blocks, block_rows, -1), counts


def sample_rows(
    x: Float[np.ndarray, "n d"], num_rows: int, key_text: str, seed: int
) -> Float[np.ndarray, "m d"]:
    """`num_rows` rows of `x` (all, if it has no more), drawn without replacement, in their order.

    Which ones depends on `key_text`, `seed` and the number of rows alone: keyed by video, the draw
    does not depend on what else is sampled, or in which order.
    """
    if len(x) <= num_rows:
        return np.asarray(x)
    digest = hashlib.sha256(f"{seed}\n{key_text}".encode()).digest()
    # raw bits, which NumPy promises to keep: random order, of which the first rows are taken
    order = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(len(x))
    return np.asarray(x[np.sort(np.argsort(order, kind="stable")[:num_rows])])
