"""Tables of videos: TSV or CSV files with a header, as spreadsheets and scripts write them."""

import codecs
import csv
import io
import os
from typing import Any, NamedTuple

from vcjax import settings
from vcjax.data.folders import SIDES, ManifestError, check_names, some
from vcjax.runtime import filesystem

SPLITS = ("split1", "split2", "split3")  # columns of the official splits of UCF101 and HMDB51
RESERVED = ("video_id", "path", "split", "num_frames", "fps")
_LOWERCASE = {*RESERVED, *SPLITS, *settings.GROUP_COLUMNS, "class", "label"}
_DELIMITERS = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}
_MARKS = {  # byte order marks; the mark of UTF-16 is the beginning of one of UTF-32
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


_HEADER = 1 << 16  # characters that contain the header


class Table(NamedTuple):
    """Columns of equal length by name, and remarks on how the file was read, one line each."""

    columns: dict[str, list[str]]
    remarks: list[str]


def read(source: Any) -> Table:
    """Return the table in the local or remote file `source`.

    The separator is a tab, comma, semicolon or bar. The names of RESERVED and a few others may
    have any case and are lower case in the result; so are values of `split` that are in SIDES.
    Paths are absolute. Spaces around a path are left out unless such a file exists, and spaces
    around other values if the separator is not a tab.

    Raises:
        ManifestError: If the file is not such a table; the message has the line if possible.
    """
    text, remarks = _decoded(source)
    default = "," if source.suffix.lower() == ".csv" else "\t"
    delimiter = max(_DELIMITERS, key=lambda d: ("path" in _header(text, d), d == default))
    names: list[str] = _header(text, delimiter)
    if not text.strip():
        raise ManifestError(f"{source}: the table is empty; write a column path")
    if "path" not in names:
        raise ManifestError(
            f"{source}: no `path` column among {some([repr(n[:40]) for n in names])}; the first "
            f"line has to name the columns, separated by {_DELIMITERS[default]}"
        )
    if repeated := sorted({name for name in names if name and names.count(name) > 1}):
        raise ManifestError(
            f"{source}: more than one column is named {some(list(map(repr, repeated)))}; rename "
            "or remove all but one"
        )
    rows, path = [], names.index("path")
    reader = _reader(text, delimiter)
    try:
        next(reader)
        for row in filter(None, reader):
            if len(row) != len(names):
                raise ManifestError(
                    f"{source}, line {reader.line_num}: not {len(names)} columns but {len(row)}"
                )
            if not row[path].strip():
                raise ManifestError(f"{source}, line {reader.line_num}: no path")
            if delimiter != "\t":  # written by hand
                row = [x if i == path else x.strip() for i, x in enumerate(row)]
            rows.append(row)
    except csv.Error as error:
        raise ManifestError(
            f"{source}, line {reader.line_num}: not a readable table: {error}"
        ) from error
    if not rows:
        raise ManifestError(f"{source}: no videos")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    if "" in columns:  # the index of a data frame
        columns.pop("")
        remarks.append("left out: columns without a name")
    return Table(_normalized(source, columns), remarks)


def _decoded(source: Any) -> tuple[str, list[str]]:
    content: bytes = source.read_bytes()
    remarks = []
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "")
    if not encoding and b"\0" in content[:2]:  # UTF-16 without its mark
        encoding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    try:
        text = content.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        try:
            if encoding:
                raise
            text = content.decode("cp1252")
        except UnicodeDecodeError:
            raise ManifestError(
                f"{source}: not a readable table: {error}; save it as UTF-8"
            ) from error
        remarks = ["not UTF-8, read as Latin-1 (Windows-1252); save it as UTF-8 if this is wrong"]
    if "\0" in text:
        raise ManifestError(f"{source}: not a readable table: it has zero bytes; save it as UTF-8")
    return text, remarks


def _reader(text: str, delimiter: str) -> Any:
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)


def _header(text: str, delimiter: str) -> list[str]:
    """Return the names of the columns, stripped; names with a meaning in lower case."""
    try:
        names: list[str] = next(_reader(text[:_HEADER], delimiter), [])
    except csv.Error:
        return []
    return [n.strip().lower() if n.strip().lower() in _LOWERCASE else n.strip() for n in names]


def _normalized(source: Any, columns: dict[str, list[str]]) -> dict[str, list[str]]:
    base = str(source.parent if filesystem.is_remote(source) else source.absolute().parent)
    written = [_trimmed(base, path) for path in columns["path"]]
    ids = columns.get("video_id") or [""] * len(written)
    ids = [video_id or _id_of(path) for video_id, path in zip(ids, written, strict=True)]
    check_names(str(source), (*ids, *written))
    paths = [_absolute(base, path) for path in written]
    for name in {"split", *SPLITS} & columns.keys():
        columns[name] = [SIDES.get(side.strip().lower(), side) for side in columns[name]]
    return columns | {"path": paths, "video_id": ids}


def _trimmed(base: str, path: str) -> str:
    """Return a path without the spaces around it, unless there is a file with that name."""
    trimmed = path.strip()
    return path if path == trimmed or os.path.exists(_absolute(base, path)) else trimmed


def _absolute(base: str, path: str) -> str:
    if filesystem.is_remote(path):
        return path
    joined = os.path.join(base, os.path.expanduser(path.removeprefix("file://")))
    return joined if filesystem.is_remote(joined) else os.path.abspath(joined)


def _id_of(path: str) -> str:
    """Return the normalized path without its suffix."""
    stem = os.path.splitext(path)[0]
    return os.path.normpath(stem) if "//" in stem or "./" in stem or stem.endswith("/") else stem
