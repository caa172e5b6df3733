"""Embeddings that other programs made, in npz or Parquet files with the column `video_id`."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from vcjax.evaluation import report_table
from vcjax.runtime import npz

log = logging.getLogger(__name__)

IDS, EMBEDDING = "video_id", "embedding"


class EmbeddingsError(ValueError):
    """A file of embeddings cannot be used; the message names the file, the reason and a remedy."""


class Source(NamedTuple):
    """A file of embeddings, written as NAME=FILE[:ARRAY]."""

    name: str
    path: Path
    array: str  # "": `embedding`, or the only other array


def parse(text: str) -> Source:
    """Return the source of NAME=FILE[:ARRAY].

    Raises:
        EmbeddingsError: If the text has another form, or the name belongs to the report.
    """
    name, equals, file = text.partition("=")
    if not equals or not re.fullmatch(r"[\w.+-]+", name) or not file:
        raise EmbeddingsError(
            f"embeddings {text!r}: use NAME=FILE.npz or NAME=FILE.parquet, with a name of letters, "
            "digits and ._+-"
        )
    if name in report_table.TITLES:
        raise EmbeddingsError(f"embeddings {text!r}: the name {name!r} is taken; use another name")
    path, array = file, ""
    if match := re.fullmatch(r"(.+\.(?:npz|parquet)):(\w+)", file):
        path, array = match.groups()
    if Path(path).suffix not in (".npz", ".parquet"):
        raise EmbeddingsError(f"embeddings {text!r}: use a file that ends in .npz or .parquet")
    return Source(name, Path(path), array)


def read(source: Source, video_ids: Sequence[str]) -> Float[np.ndarray, "n d"]:
    """Return the embeddings of `video_ids`, in this order. Rows of other videos are ignored.

    Raises:
        EmbeddingsError: If the file is not readable or lacks a video, or if an id is repeated or a
            value is not finite.
    """
    path = source.path
    columns = _npz(path) if path.suffix == ".npz" else _parquet(path)
    if IDS not in columns:
        raise EmbeddingsError(f"{path}: no column {IDS}, but {sorted(columns)}; add the ids")
    ids = columns.pop(IDS).astype(str)
    values = _values(source, columns, len(ids))
    _check_ids(path, ids.tolist(), video_ids)
    row_of = {video_id: row for row, video_id in enumerate(ids.tolist())}
    rows = values[[row_of[video_id] for video_id in video_ids]].astype(np.float32)
    if not np.isfinite(rows).all():
        bad = video_ids[int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])]
        raise EmbeddingsError(f"{path}: the embedding of {bad!r} is not finite; correct its row")
    return rows


def _values(source: Source, columns: dict[str, np.ndarray], count: int) -> np.ndarray:
    name = source.array or (EMBEDDING if EMBEDDING in columns else "")
    matrices = sorted(k for k, v in columns.items() if v.ndim == 2 and len(v) == count)
    if not name and len(matrices) == 1:
        name = matrices[0]
    if name not in matrices:
        raise EmbeddingsError(
            f"{source.path}: no array {name or EMBEDDING!r} of one row for each of {count} ids; "
            f"select one of {matrices} by {source.name}={source.path}:ARRAY"
        )
    return columns[name]


def _check_ids(path: Path, ids: list[str], video_ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        twice = next(video_id for video_id in ids if ids.count(video_id) > 1)
        raise EmbeddingsError(
            f"{path}: the id {twice!r} has {ids.count(twice)} rows; average them into one row"
        )
    missing = sorted(set(video_ids) - set(ids))
    extra = sorted(set(ids) - set(video_ids))
    if missing:
        hint = f"; the file has ids of other videos, such as {extra[:3]}" if extra else ""
        raise EmbeddingsError(
            f"{path}: no row for {len(missing)} of {len(video_ids)} videos, first {missing[:3]}"
            f"{hint}; use the ids of the collection (column video_id of its table)"
        )
    if extra:
        log.warning(
            "%s: %d rows belong to no video and are ignored: %s", path, len(extra), extra[:3]
        )


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError as error:
        raise EmbeddingsError(f"{path}: no such file") from error
    except (*npz.UNREADABLE, AttributeError) as error:
        raise EmbeddingsError(
            f"{path}: not a readable npz file ({error}); write it by "
            "np.savez(FILE, video_id=np.array(ids, str), embedding=...)"
        ) from error


def _parquet(path: Path) -> dict[str, np.ndarray]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except FileNotFoundError as error:
        raise EmbeddingsError(f"{path}: no such file") from error
    except (pa.ArrowException, OSError) as error:
        raise EmbeddingsError(f"{path}: not a readable Parquet file: {error}") from error
    return {name: _array(table[name]) for name in table.column_names}


def _array(column: Any) -> np.ndarray:
    """Return a column as an array; a list of numbers of one length per row becomes a matrix."""
    values = column.to_pylist()
    if values and isinstance(values[0], list) and len({len(row or ()) for row in values}) == 1:
        return np.array(values)
    return np.array(values, object) if values and isinstance(values[0], list) else np.array(values)
