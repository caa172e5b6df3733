"""Rows from wherever they come, in pieces of a fixed size."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

# An array (or memory map) of rows, or a function that yields arrays of rows, anew at each call.
Rows = Float[np.ndarray, "n d"] | Float[Array, "n d"] | Callable[[], Iterable[np.ndarray]]

_PIECE_ROWS = 65536


class Columns(NamedTuple):
    """Which values of a row a mixture sees: those from `begin` to `end`, or their square roots."""

    begin: int = 0
    end: int | None = None
    square_root: bool = False  # signed

    def of(self, x: Float[np.ndarray, "n d"] | Float[Array, "n d"]) -> Any:
        """These columns of the rows."""
        x = x[:, self.begin : self.end]
        if not self.square_root:
            return x
        numpy = x.__array_namespace__()
        return numpy.sign(x) * numpy.sqrt(numpy.abs(x))


class Segments(NamedTuple):
    """Blocks of rows, each of one item of a collection; what is not a row is 0."""

    blocks: Float[np.ndarray, "b r d"]
    num_rows: Int[np.ndarray, " b"]
    is_first: Bool[np.ndarray, " b"]  # block of its item
    is_last: Bool[np.ndarray, " b"]
    ended: dict[int, int]  # item -> its last block


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


def segments(
    collection: Iterable[Rows], num_dims: int, num_blocks: int, block_rows: int
) -> Iterator[Segments]:
    """The rows of all items in turn, in chunks of one size; each item begins a block.

    Items without rows are in no block. Raises ValueError for rows of other than `num_dims` values.
    """
    chunk: Segments | None = None
    block, filled = num_blocks, block_rows
    for item, x in enumerate(collection):
        is_first = True
        for piece in pieces(x):
            if len(piece) and piece.shape[1] != num_dims:
                raise ValueError(f"rows of {piece.shape[1]} values, not {num_dims}")
            while len(piece):
                if filled == block_rows:
                    block, filled = block + 1, 0
                    if chunk is None or block == num_blocks:
                        if chunk is not None:
                            yield chunk
                        chunk, block = _no_segments(num_blocks, block_rows, num_dims), 0
                    chunk.is_first[block], is_first = is_first, False
                assert chunk is not None  # a block is begun
                taken = min(block_rows - filled, len(piece))
                chunk.blocks[block, filled : filled + taken] = piece[:taken]
                piece, filled = piece[taken:], filled + taken
                chunk.num_rows[block] = filled
        if chunk is not None and not is_first:
            chunk.is_last[block], chunk.ended[item] = True, block
            filled = block_rows
    if chunk is not None:
        yield chunk


def _no_segments(num_blocks: int, block_rows: int, num_dims: int) -> Segments:
    return Segments(
        np.zeros((num_blocks, block_rows, num_dims), np.float32),
        np.zeros(num_blocks, np.int32),
        np.zeros(num_blocks, bool),
        np.zeros(num_blocks, bool),
        {},
    )


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


def sample_items(names: Sequence[str], num_items: int, seed: int) -> list[str]:
    """`num_items` of `names` (all, if there are no more), drawn without replacement."""
    drawn = np.random.default_rng(seed).permutation(len(names))[:num_items]
    return [names[row] for row in sorted(drawn)]


def sample(
    names: Iterable[str],
    read: Callable[[str], Float[np.ndarray, "_ d"]],
    *,
    rows_per_item: int,
    seed: int,
) -> Float[np.ndarray, "n d"]:
    """Rows of each item, drawn by its name. Raises ValueError if no item has any."""
    drawn = [sample_rows(read(name), rows_per_item, name, seed) for name in names]
    widths = {x.shape[1] for x in drawn if len(x)}
    if len(widths) != 1:
        raise ValueError(
            f"rows of {sorted(widths)} values in one collection" if widths else "there are no rows"
        )
    return np.concatenate([x for x in drawn if len(x)])
