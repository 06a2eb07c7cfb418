"""From records to rows: texts with labels, words with tags, questions with answers, each field checked. torch-free.

What the labels of all rows together are is in ``labels.py``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebert.errors import InputError
from edgebert.spans import Place, joined
from edgebert.training.formats import Record, place, read_records

Label = str | float | tuple[str, ...]
FIELDS = ("text", "text_b", "label", "tokens", "tags", "question", "context", "answers")
# Far more than any model reads; tokenizing takes memory a hundred times the text's.
_LONGEST_TEXT = 1_000_000


@dataclass(frozen=True)
class Given:
    """An answer that a question came with: a stretch of the context, from the character ``start`` on."""

    text: str
    start: int

    @property
    def place(self) -> Place:
        """Where it begins and ends, blanks around it left out."""
        start = self.start + len(self.text) - len(self.text.lstrip())
        return start, start + len(self.text.strip())


@dataclass(frozen=True)
class Row:
    """A text or a pair of texts, and what it is labelled with: a class name, a score, several names, or nothing.

    A text that was given as ``words`` is these with blanks between them, and its label a tag for each. A question
    (``text``) with its context (``text_b``) has no label but ``answers``.
    """

    text: str
    text_b: str | None = None
    label: Label | None = None
    words: tuple[str, ...] = ()
    answers: tuple[Given, ...] | None = None

    @property
    def labelled(self) -> bool:
        """Whether there is anything to learn or judge by."""
        return self.label is not None or self.answers is not None


@dataclass(frozen=True)
class Part:
    """One split as read: its file, and the line each row begins on, for errors to name."""

    path: Path
    rows: tuple[Row, ...]
    lines: tuple[int, ...]


def read_part(path: Path, columns: Mapping[str, str]) -> Part:
    """The rows of one file, its fields under the names that ``columns`` gives. Raises InputError naming the line."""
    records, header = read_records(path)
    if header is not None and header:
        _check_columns(path, header, columns)
    if not records:
        raise InputError("no rows", str(path), "give a file with at least one text")
    names = {field: columns.get(field, field) for field in FIELDS}
    rows = tuple(_row(path, record, names) for record in records)
    lines = tuple(line for line, _ in records)
    for field in ("text_b", "label", "answers"):
        _check_all_or_none(path, rows, lines, field, names[field], field in columns)
    return Part(path, rows, lines)


def _check_columns(path: Path, header: Sequence[str], columns: Mapping[str, str]) -> None:
    names = {field: columns.get(field, field) for field in FIELDS}
    needed = ("tokens",) if _is_tagged(header, names) else _question_fields(header, names) or ("text",)
    for field in FIELDS:
        if (field in needed or field in columns) and names[field] not in header:
            raise _missing_column(path, 1, names[field], field, header)


def _missing_column(path: Path, line: int, column: str, field: str, found: Iterable[str]) -> InputError:
    there = ", ".join(map(str, found)) or "no columns"
    remedy = f"the file has {there}; name the right one with --columns {field}=..."
    return InputError(f"no column {column!r}", place(path, line, column), remedy)


def _row(path: Path, record: Record, names: Mapping[str, str]) -> Row:
    line, cells = record
    if _is_tagged(cells, names):
        return _tagged_row(path, record, names)
    if fields := _question_fields(cells, names):
        return _question_row(path, record, names, fields)
    if names["text"] not in cells:
        raise _missing_column(path, line, names["text"], "text", cells)
    text_b = cells.get(names["text_b"])
    return Row(
        _checked_text(cells[names["text"]], place(path, line, names["text"])),
        None if text_b is None else _checked_text(text_b, place(path, line, names["text_b"])),
        _checked_label(cells.get(names["label"]), place(path, line, names["label"])),
    )


def _is_tagged(found: Collection[str], names: Mapping[str, str]) -> bool:
    """Whether rows of these columns are tokens and tags: some data has tokens beside a text and its label."""
    return names["tokens"] in found and (names["tags"] in found or names["text"] not in found)


def _tagged_row(path: Path, record: Record, names: Mapping[str, str]) -> Row:
    line, cells = record
    words = _checked_words(cells[names["tokens"]], place(path, line, names["tokens"]))
    where = place(path, line, names["tags"])
    if (found := cells.get(names["tags"])) is None:
        return Row(joined(words)[0], words=words)
    tags = _checked_words(found, where)
    if len(tags) != len(words):
        raise InputError(f"{len(tags)} tags for {len(words)} tokens", where, "give a tag for each token")
    return Row(joined(words)[0], None, tags, words)


def _question_fields(found: Collection[str], names: Mapping[str, str]) -> tuple[str, str] | None:
    """The fields of question and context, where that is what rows of these columns are.

    Answers alone make no question of a text that has a label: they need a context to stand in.
    """
    named = {field for field in FIELDS if names[field] in found}
    if {"question", "context"} <= named and ("answers" in named or "text" not in named):
        return "question", "context"
    if {"question", "answers"} <= named and "text" not in named:
        return "question", "context"
    return ("text", "text_b") if {"text", "text_b", "answers"} <= named else None


def _question_row(path: Path, record: Record, names: Mapping[str, str], fields: tuple[str, str]) -> Row:
    line, cells = record
    for field in fields:
        if names[field] not in cells:
            raise _missing_column(path, line, names[field], field, cells)
    question, context = (_checked_text(cells[names[field]], place(path, line, names[field])) for field in fields)
    found, where = cells.get(names["answers"]), place(path, line, names["answers"])
    return Row(question, context, answers=None if found is None else _checked_answers(found, context, where))


def _checked_answers(value: Any, context: str, where: str) -> tuple[Given, ...]:
    form = 'give a list such as [{"text": "42", "start": 7}]'
    if not isinstance(value, list):
        raise InputError(f"answers are no list but {type(value).__name__}", where, form)
    if not value:
        raise InputError("a question without an answer", where, "drop it: every question has its answer in the context")
    found = []
    for item in value:
        match item:
            case {"text": str(text), "start": int(start)} if not isinstance(start, bool):
                found.append(Given(_checked_text(text, where), start))
            case _:
                raise InputError(f"not an answer: {item!r:.60}", where, form)
        _check_stands(found[-1], context, where)
    return tuple(found)


def _check_stands(answer: Given, context: str, where: str) -> None:
    """Raise InputError unless the context has the answer where it is said to begin."""
    there = context[answer.start : answer.start + len(answer.text)] if answer.start >= 0 else ""
    if not answer.text.strip() or there != answer.text:
        what = f"the context has {there!r:.40} at {answer.start}, not {answer.text!r:.40}"
        raise InputError(what, where, "count start in characters, from 0")


def _checked_words(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise InputError(f"not a list of words but {type(value).__name__}", where, "give a list of strings")
    words = tuple(_checked_text(word, where) for word in value)
    if not all(words) or not words:
        raise InputError("an empty word, or none at all", where, "drop it, and its tag")
    return words


def _checked_text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"not text but {type(value).__name__}", where, "give a string")
    if len(value) > _LONGEST_TEXT:
        raise InputError(f"text of {len(value):,} characters", where, f"cut it to {_LONGEST_TEXT:,} or fewer")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError("text holds half a surrogate pair", where, "write the text as UTF-8") from None
    return value


def _checked_label(value: Any, where: str) -> Label | None:
    """A label as read: names stay, whole numbers become names, floats stay until the kind is known.

    A list is of names, and may be empty; which come twice counts once.
    """
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"label {value} is no number", where, "give a finite score")
        return value
    if isinstance(value, list):
        names = [_checked_label(item, where) for item in value]
        if not all(isinstance(name, str) for name in names):
            raise InputError("a list of labels that are no names", where, "give a list of names")
        return tuple(sorted({str(name) for name in names}))
    if not isinstance(value, str):
        raise InputError(f"label is {type(value).__name__}", where, "give a name, a number or a list of names")
    return _checked_text(value, where)


def _check_all_or_none(
    path: Path, rows: Sequence[Row], lines: Sequence[int], field: str, column: str, required: bool
) -> None:
    """An optional field stands in every row or in none."""
    absent = [line for row, line in zip(rows, lines, strict=True) if getattr(row, field) is None]
    if absent and (required or len(absent) < len(rows)):
        what = f"no {field} here, but in {len(rows) - len(absent)} of {len(rows)} rows"
        raise InputError(what, place(path, absent[0], column), f"give {field} in every row, or in none")


def check_all_pairs_or_none(parts: Mapping[str, Part]) -> None:
    """Raise InputError where some parts hold pairs and others single texts."""
    pairs = parts["train"].rows[0].text_b is not None
    for part in parts.values():
        if (part.rows[0].text_b is not None) != pairs:
            what = f"train has {'pairs' if pairs else 'single texts'}, this part has not"
            raise InputError(what, place(part.path, part.lines[0], "text_b"), "give text_b in all parts, or in none")
