"""File formats of labelled text: every file becomes records, a dict and its place in the file. torch-free.

What the fields mean is decided in ``data.py``.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from edgebert.errors import InputError, missing_package

Record = tuple[int, Mapping[str, Any]]
"""The 1-based line (parquet: row) a record begins on, and its fields by column name."""


def extension_of(path: Path) -> str | None:
    """The extension of a file we can read (``.jsonl.gz`` counts as one), or None."""
    return next((ext for ext in sorted(READERS, key=len, reverse=True) if path.name.endswith(ext)), None)


def read_records(path: Path) -> tuple[list[Record], tuple[str, ...] | None]:
    """All records of a file, and its column names where the format states them once for all.

    Raises InputError naming file and line for an unknown extension, broken or undecodable content.
    """
    extension = extension_of(path)
    if extension is None:
        raise InputError("unknown kind of data file", str(path), f"edgebert reads {', '.join(READERS)}")
    return READERS[extension](path)


def _read_jsonl(path: Path) -> tuple[list[Record], None]:
    return list(_parse_jsonl(path)), None


def _parse_jsonl(path: Path) -> Iterator[Record]:
    # Only "\n" ends a line: U+2028 and its kind may stand inside a string.
    for number, line in enumerate(_text_of(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, parse_constant=_no_constant, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise InputError(f"not valid JSON ({error})", place(path, number), "write one JSON object a line") from None
        if not isinstance(record, dict):
            raise InputError("not a JSON object", place(path, number), "write one JSON object a line")
        yield number, record


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key stands twice")
    return record


def _read_csv(path: Path) -> tuple[list[Record], tuple[str, ...]]:
    # Strict: a stray quote would otherwise swallow the lines after it in silence.
    return _parse_table(path, csv.reader(io.StringIO(_text_of(path), newline=""), strict=True))


def _read_tsv(path: Path) -> tuple[list[Record], tuple[str, ...]]:
    # The registered media type has no quoting, and the files of GLUE are full of lone quotes.
    rows = csv.reader(io.StringIO(_text_of(path), newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    return _parse_table(path, rows)


def _parse_table(path: Path, reader: Any) -> tuple[list[Record], tuple[str, ...]]:
    # Long fields are for the caller to judge, by name.
    csv.field_size_limit(2**31 - 1)
    rows = _numbered(path, reader)
    number, header = next(rows, (1, []))
    if twice := {name for name in header if header.count(name) > 1}:
        raise InputError(f"column {min(twice)!r} stands twice", place(path, number), "rename one of them")
    records: list[Record] = []
    for number, cells in rows:
        if len(cells) != len(header):
            what = f"{len(cells)} fields where the first line has {len(header)}"
            raise InputError(what, place(path, number), "quote fields that hold separators")
        records.append((number, dict(zip(header, cells, strict=True))))
    return records, tuple(header)


def _numbered(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the line it begins on."""
    while True:
        begin = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"not a valid table ({error})", place(path, begin), "check the quotes") from None
        if cells:
            yield begin, cells


def _read_parquet(path: Path) -> tuple[list[Record], tuple[str, ...]]:
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise missing_package("pyarrow") from None
    try:
        table = parquet.read_table(path)
        records = table.to_pylist()
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        # arrow raises OSError for broken content too, without a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"not a parquet file ({error})", str(path), "write it again") from None
    return list(enumerate(records, start=1)), tuple(table.column_names)


def _read_txt(path: Path) -> tuple[list[Record], tuple[str, ...]]:
    lines = enumerate(_text_of(path).split("\n"), start=1)
    records: list[Record] = [(number, {"text": line.removesuffix("\r")}) for number, line in lines if line.strip()]
    return records, ("text",)


def _text_of(path: Path) -> str:
    """The decoded text of a file, its byte order mark removed."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"not a whole gzip file ({error})", str(path), "copy or write it again") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError("not UTF-8", place(path, line), "convert the file to UTF-8") from None
    if "\0" in text:
        line = raw.count(b"\n", 0, raw.index(b"\0")) + 1
        raise InputError("a NUL byte, so not text or UTF-16", place(path, line), "convert the file to UTF-8")
    return text


def place(path: Path, line: int, field: str | None = None) -> str:
    """How errors name a spot: file, 1-based line, field."""
    return f"{path}, line {line}" + (f", field {field!r}" if field else "")


READERS: Mapping[str, Callable[[Path], tuple[list[Record], tuple[str, ...] | None]]] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".csv": _read_csv,
    ".csv.gz": _read_csv,
    ".tsv": _read_tsv,
    ".tsv.gz": _read_tsv,
    ".parquet": _read_parquet,
    ".txt": _read_txt,
    ".txt.gz": _read_txt,
}
