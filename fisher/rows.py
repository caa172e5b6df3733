"""Rows of descriptors from arrays, memory maps or streams, in blocks of a fixed size."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Array, Bool, Float, Int

# An array (or memory map) of rows, or a function that returns a new iterable of arrays of rows at
# each call.
Rows = Float[np.ndarray, "n d"] | Float[Array, "n d"] | Callable[[], Iterable[np.ndarray]]

_PIECE_ROWS = 65536

# NumPy arrays give NumPy arrays, JAX arrays give JAX arrays
_Matrix = TypeVar("_Matrix", np.ndarray, Array)


class NoRowsError(ValueError):
    """A collection has no rows to sample."""


class Columns(NamedTuple):
    """Columns `begin` to `end` (exclusive; None: the last) of the rows, or their square roots."""

    begin: int = 0
    end: int | None = None
    square_root: bool = False  # sign(x) sqrt(|x|)

    def select(self, x: _Matrix) -> _Matrix:
        """Return these columns of the rows `x` [n, d], or their signed square roots."""
        x = x[:, self.begin : self.end]
        if not self.square_root:
            return x
        numpy = x.__array_namespace__()
        return numpy.sign(x) * numpy.sqrt(numpy.abs(x))


class Segments(NamedTuple):
    """Blocks of rows, each block of one item of a collection; padding is 0."""

    blocks: Float[np.ndarray, "b r d"]
    num_rows: Int[np.ndarray, " b"]
    is_primary: Bool[np.ndarray, " b"]  # first block of its item
    is_last: Bool[np.ndarray, " b"]  # last block of its item
    ended: dict[int, int]  # item -> index of its last block


class Moments(NamedTuple):
    """Number, mean and variance of all rows, in float64."""

    num_rows: int
    mean: Float[np.ndarray, " d"]
    variance: Float[np.ndarray, " d"]


def check_count(name: str, value: Any, minimum: int = 0) -> None:
    """Raise ValueError unless `value` is an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(f"{name} is {value!r}; use an integer of at least {minimum}")


def check_number(name: str, value: Any, low: float, high: float = np.inf) -> None:
    """Raise ValueError unless `value` is a number from `low` to `high`."""
    is_number = isinstance(value, int | float | np.integer | np.floating)
    if isinstance(value, bool) or not is_number or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; use a number from {low:g} to {high:g}")


def check_numbers(name: str, x: Any, expected: str = "an array") -> None:
    """Raise ValueError unless `x` is an array of real numbers."""
    if not hasattr(x, "dtype") or not hasattr(x, "ndim"):
        raise ValueError(f"{name} must be {expected}, not a {type(x).__name__}")
    is_number = np.can_cast(x.dtype, np.float64, "same_kind")
    if not is_number or np.dtype(x.dtype).kind in "SUOMm":
        raise ValueError(f"{name} must hold real numbers, not {x.dtype}")


def check_array(x: Any, num_dims: int | None = None) -> None:
    """Raise ValueError unless `x` is an array of numbers [n, d], with d = `num_dims` if given."""
    check_numbers("rows", x, "an array [n, d]")
    if x.ndim != 2:
        raise ValueError(f"rows must be an array [n, d], not of shape {x.shape}")
    if not x.shape[1]:
        raise ValueError("rows have no values: their array is of shape [n, 0]")
    if num_dims not in (None, x.shape[1]):
        raise ValueError(f"rows of {x.shape[1]} values, not {num_dims}")


def check_names(name: str, values: Any) -> None:
    """Raise ValueError unless `values` is a sequence of texts."""
    if not isinstance(values, Sequence) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name} must be a list of texts, not a {type(values).__name__}")


def pieces(x: Rows, num_rows: int = _PIECE_ROWS) -> Iterator[Float[np.ndarray, "m d"]]:
    """Yield the rows of `x` in order, in arrays of at most `num_rows` rows."""
    for array in x() if callable(x) else (x,):
        check_array(array)
        for begin in range(0, len(array), num_rows):
            yield np.asarray(array[begin : begin + num_rows])


def moments(x: Rows) -> Moments:
    """Return number, mean and variance of the rows, computed in one pass.

    Raises:
      ValueError: if there are no rows, if rows differ in length, or if a value is not finite.
    """
    count, mean, scatter = 0, np.zeros(0), np.zeros(0)
    for piece in pieces(x):
        piece = piece.astype(np.float64)
        if not np.isfinite(piece).all():
            bad = count + int(np.flatnonzero(~np.isfinite(piece).all(axis=1))[0])
            raise ValueError(f"row {bad} has a value that is not finite; remove such rows")
        piece_mean = piece.mean(axis=0)
        piece_scatter = ((piece - piece_mean) ** 2).sum(axis=0)
        if not count:
            count, mean, scatter = len(piece), piece_mean, piece_scatter
            continue
        if len(piece_mean) != len(mean):
            raise ValueError(
                f"rows of {len(mean)} and of {len(piece_mean)} values in one collection"
            )
        # parallel update of mean and scatter (Chan et al. 1983): no cancellation of large squares
        total, difference = count + len(piece), piece_mean - mean
        scatter = scatter + piece_scatter + difference**2 * (count * len(piece) / total)
        mean, count = mean + difference * (len(piece) / total), total
    if not count:
        raise ValueError("there are no rows to fit to")
    return Moments(count, mean, scatter / count)


def take(x: Rows, indices: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m d"]:
    """Return the rows at `indices`, which must be sorted, in float32."""
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
    """Yield all rows in chunks of `num_blocks` blocks of `block_rows` rows.

    Each step yields the blocks and the number of rows in each block. Blocks are filled in order;
    padding is 0. A chunk is a new array that is not modified after it was yielded.
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
    """Yield the rows of all items in order, in chunks of `num_blocks` blocks of `block_rows` rows.

    Each item begins a new block. Items without rows occupy no block. The last chunk is filled up
    with blocks without rows.

    Raises:
      ValueError: if an item has rows of other than `num_dims` values.
    """
    blocks = _item_blocks(collection, num_dims, block_rows)
    while chunk := list(itertools.islice(blocks, num_blocks)):
        segments = _no_segments(num_blocks, block_rows, num_dims)
        for i, block in enumerate(chunk):
            segments.blocks[i] = block.rows
            segments.num_rows[i] = block.num_rows
            segments.is_primary[i], segments.is_last[i] = block.is_primary, block.is_last
            if block.is_last:
                segments.ended[block.item] = i
        yield segments


class _Block(NamedTuple):
    """Up to r rows of one item; the remaining rows are 0."""

    item: int
    rows: Float[np.ndarray, "r d"]
    num_rows: int
    is_primary: bool
    is_last: bool


def _item_blocks(collection: Iterable[Rows], num_dims: int, block_rows: int) -> Iterator[_Block]:
    for item, x in enumerate(collection):
        # a block is held back until the next is read: only then is it certain to be the last or not
        held: _Block | None = None
        for (rows,), (num_rows,) in chunks(partial(_checked, x, num_dims), 1, block_rows):
            if held is not None:
                yield held
            held = _Block(item, rows, int(num_rows), is_primary=held is None, is_last=False)
        if held is not None:
            yield held._replace(is_last=True)


def _checked(x: Rows, num_dims: int) -> Iterator[Float[np.ndarray, "m d"]]:
    for piece in pieces(x):
        if len(piece) and piece.shape[1] != num_dims:
            raise ValueError(f"rows of {piece.shape[1]} values, not {num_dims}")
        yield piece


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
    """Return `num_rows` rows of `x` (or all, if there are fewer), drawn without replacement.

    The rows keep their order. The draw depends on `key_text`, `seed` and the number of rows only:
    with the video id as key it is independent of the other videos and of their order.
    """
    check_array(x)
    check_count("num_rows", num_rows)
    check_count("seed", seed)
    if len(x) <= num_rows:
        return np.asarray(x)
    digest = hashlib.sha256(f"{seed}\n{key_text}".encode()).digest()
    # raw bits are stable across versions of NumPy, unlike the methods of Generator
    order = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(len(x))
    return np.asarray(x[np.sort(np.argsort(order, kind="stable")[:num_rows])])


def sample_items(names: Sequence[str], num_items: int, seed: int) -> list[str]:
    """Return `num_items` of `names` (or all, if there are fewer), drawn without replacement.

    The names keep their order.
    """
    check_count("num_items", num_items)
    check_count("seed", seed)
    check_names("names", names)
    drawn = np.random.default_rng(seed).permutation(len(names))[:num_items]
    return [names[row] for row in sorted(drawn)]


def sample(
    names: Iterable[str],
    read: Callable[[str], Float[np.ndarray, "_ d"]],
    *,
    rows_per_item: int,
    seed: int,
) -> Float[np.ndarray, "n d"]:
    """Return rows of all items, drawn at random from each.

    Args:
      names: names of the items, which key the draw (see `sample_rows`).
      read: returns the rows of the item of a name.
      rows_per_item: maximum number of rows per item.
      seed: seed of the draw.

    Raises:
      NoRowsError: if no item has rows.
      ValueError: if rows differ in length.
    """
    check_count("rows_per_item", rows_per_item, 1)
    check_count("seed", seed)
    if not isinstance(names, Iterable) or not callable(read):
        raise ValueError(
            f"names must be texts and read a function, not a {type(names).__name__} and a "
            f"{type(read).__name__}"
        )
    drawn = [sample_rows(read(name), rows_per_item, name, seed) for name in names]
    widths = {x.shape[1] for x in drawn if len(x)}
    if not widths:
        raise NoRowsError(f"there are no rows in any of {len(drawn)} items")
    if len(widths) > 1:
        raise ValueError(
            f"rows of {' and '.join(map(str, sorted(widths)))} values in one collection"
        )
    return np.concatenate([x for x in drawn if len(x)])
