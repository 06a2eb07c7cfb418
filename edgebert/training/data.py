"""Labelled text: read from a folder or a file, checked, split, identified by a digest. torch-free.

How a file is cut into records is in ``formats.py``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgebert.errors import InputError, UsageError
from edgebert.machine import readable
from edgebert.spans import OUTSIDE, joined
from edgebert.tasks import Kind
from edgebert.training.formats import READERS, Record, extension_of, place, read_records

Label = str | float | tuple[str, ...]
SPLITS = ("train", "dev", "test")
FIELDS = ("text", "text_b", "label", "tokens", "tags")
DEV_SHARE = 0.1
# Far more than any model reads; tokenizing takes memory a hundred times the text's.
_LONGEST_TEXT = 1_000_000


@dataclass(frozen=True)
class Row:
    """A text or a pair of texts, and what it is labelled with: a class name, a score, several names, or nothing.

    A text that was given as ``words`` is these with blanks between them, and its label a tag for each.
    """

    text: str
    text_b: str | None = None
    label: Label | None = None
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Data:
    """The three parts, and ``labels``: the class names in the order of their index (none for scores).

    ``digest`` identifies rows, splits and labels, wherever the files lie. ``notes`` say what was
    derived, ``warnings`` what the user should look at.
    """

    name: str
    train: tuple[Row, ...]
    dev: tuple[Row, ...]
    test: tuple[Row, ...]
    labels: tuple[str, ...]
    kind: Kind
    digest: str
    test_is_dev: bool = False
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def pair(self) -> bool:
        """Whether rows hold two texts each."""
        return self.train[0].text_b is not None


@dataclass(frozen=True)
class _Part:
    """One split as read: its file, and the line each row begins on, for errors to name."""

    path: Path
    rows: tuple[Row, ...]
    lines: tuple[int, ...]


def read(path: Path | str, columns: Mapping[str, str] | None = None, seed: int = 0) -> Data:
    """Read a folder with train, dev and test files, or one file that is all train.

    ``columns`` maps the fields text, text_b and label, or tokens and tags, to the file's own column names.
    Without a dev file a seeded tenth of train becomes dev; without a test file, dev serves as test.
    Raises InputError naming file, line and field, UsageError for a field that does not exist.
    """
    columns = columns or {}
    if unknown := sorted(set(columns) - set(FIELDS)):
        raise UsageError(f"no field is called {unknown[0]!r}", "--columns", f"map some of {', '.join(FIELDS)}")
    source = Path(path)
    parts = {split: _read_part(file, columns) for split, file in _find(source).items()}
    _check_all_pairs_or_none(parts)
    kind = _kind_of(parts)
    parts = {split: _settle_labels(part, kind) for split, part in parts.items()}
    labels = _labels_of(parts, source, kind) if kind in _NAMED else ()
    rows = {split: part.rows for split, part in parts.items()}
    notes, warnings = _duplicate_notes(rows), _overlap_warnings(rows)
    if "dev" not in rows:
        rows["train"], rows["dev"] = split_dev(rows["train"], seed, str(parts["train"].path))
        notes.append(f"dev: {len(rows['dev'])} rows drawn from train (seed {seed})")
    test_is_dev = "test" not in rows
    if test_is_dev:
        rows["test"] = rows["dev"]
        notes.append("test: none given, dev serves")
    return Data(
        name=readable(source.resolve().name).removesuffix(extension_of(source) or ""),
        train=rows["train"],
        dev=rows["dev"],
        test=rows["test"],
        labels=labels,
        kind=kind,
        digest=_digest(rows, labels),
        test_is_dev=test_is_dev,
        notes=tuple(notes),
        warnings=warnings,
    )


def _find(source: Path) -> dict[str, Path]:
    """The file of each split, in the order train, dev, test."""
    if source.is_file():
        return {"train": source}
    if not source.is_dir():
        raise InputError("no such data file or folder", str(source), "check --data")
    found: dict[str, Path] = {}
    for split in SPLITS:
        files = [source / f"{split}{ext}" for ext in READERS if os.path.lexists(source / f"{split}{ext}")]
        if len(files) > 1:
            raise InputError(f"two files for {split}: {files[0].name}, {files[1].name}", str(source), "remove one")
        if files and not files[0].is_file():
            raise InputError(f"{split} is no file", str(files[0]), "put a file there, or remove it")
        if files:
            found[split] = files[0]
    if "train" not in found:
        raise InputError("no train file", str(source), f"add train with one of {', '.join(READERS)}")
    return found


def _read_part(path: Path, columns: Mapping[str, str]) -> _Part:
    records, header = read_records(path)
    if header is not None and header:
        _check_columns(path, header, columns)
    if not records:
        raise InputError("no rows", str(path), "give a file with at least one text")
    names = {field: columns.get(field, field) for field in FIELDS}
    rows = tuple(_row(path, record, names) for record in records)
    lines = tuple(line for line, _ in records)
    for field in ("text_b", "label"):
        _check_all_or_none(path, rows, lines, field, names[field], field in columns)
    return _Part(path, rows, lines)


def _check_columns(path: Path, header: Sequence[str], columns: Mapping[str, str]) -> None:
    names = {field: columns.get(field, field) for field in FIELDS}
    main = "tokens" if _is_tagged(header, names) else "text"
    for field in FIELDS:
        if (field == main or field in columns) and names[field] not in header:
            raise _missing_column(path, 1, names[field], field, header)


def _missing_column(path: Path, line: int, column: str, field: str, found: Iterable[str]) -> InputError:
    there = ", ".join(map(str, found)) or "no columns"
    remedy = f"the file has {there}; name the right one with --columns {field}=..."
    return InputError(f"no column {column!r}", place(path, line, column), remedy)


def _row(path: Path, record: Record, names: Mapping[str, str]) -> Row:
    line, cells = record
    if _is_tagged(cells, names):
        return _tagged_row(path, record, names)
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
        raise InputError(what, place(path, absent[0], column), f"give every row a {field}, or none")


def _check_all_pairs_or_none(parts: Mapping[str, _Part]) -> None:
    pairs = parts["train"].rows[0].text_b is not None
    for part in parts.values():
        if (part.rows[0].text_b is not None) != pairs:
            what = f"train has {'pairs' if pairs else 'single texts'}, this part has not"
            raise InputError(what, place(part.path, part.lines[0], "text_b"), "give text_b in all parts, or in none")


# Kinds whose labels are names.
_NAMED: tuple[Kind, ...] = ("label", "labels", "tags")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WHOLE = re.compile(r"[+-]?\d+")


def _kind_of(parts: Mapping[str, _Part]) -> Kind:
    """What the labels of all parts together are: names, several names a text, scores, or nothing."""
    labelled = {split: part.rows[0].label is not None for split, part in parts.items()}
    if not any(labelled.values()):
        return "none"
    if not all(labelled.values()):
        split = next(split for split, yes in labelled.items() if not yes)
        raise InputError("this part has no labels, but others do", str(parts[split].path), "label all parts, or none")
    labels = [row.label for part in parts.values() for row in part.rows]
    if any(isinstance(label, tuple) for label in labels):
        given = {bool(row.words) for part in parts.values() for row in part.rows}
        if len(given) > 1:
            raise InputError("tokens in some rows, text in others", str(parts["train"].path), "give tokens in all")
        return "tags" if given == {True} else "labels"
    if any(isinstance(label, float) for label in labels):
        return "score"
    if all(_NUMBER.fullmatch(str(label)) for label in labels):
        return "label" if all(_WHOLE.fullmatch(str(label)) for label in labels) else "score"
    return "label"


def _settle_labels(part: _Part, kind: Kind) -> _Part:
    """The part with its labels as what they turned out to be."""
    settles: dict[Kind, Callable[[Label | None, str], Label]] = {"score": _as_score, "labels": _as_names}
    if kind not in settles:
        return part
    settle = settles[kind]
    pairs = zip(part.rows, part.lines, strict=True)
    rows = tuple(replace(row, label=settle(row.label, place(part.path, line, "label"))) for row, line in pairs)
    return replace(part, rows=rows)


def _as_score(label: Label | None, where: str) -> Label:
    if isinstance(label, float):
        return label
    if not isinstance(label, str) or not _NUMBER.fullmatch(label):
        raise InputError(f"label {label!r} is no number, but others are", where, "give names or scores, not both")
    return float(label)


def _as_names(label: Label | None, where: str) -> Label:
    if not isinstance(label, tuple):
        raise InputError(f"label {label!r} is no list, but others are", where, "give every row a list of names")
    return label


def _labels_of(parts: Mapping[str, _Part], source: Path, kind: Kind) -> tuple[str, ...]:
    """The class names of train in order. Raises InputError for a single one, or one that only others have."""
    names = {name for row in parts["train"].rows for name in names_of(row)}
    if kind == "tags":
        names = _both_tags(names)
    if len(names) < 2:
        what = f"only one class ({min(names, default='')!r}) in train"
        raise InputError(what, str(parts["train"].path), "give examples of at least two classes")
    for split, part in parts.items():
        for row, line in zip(part.rows, part.lines, strict=True):
            if unknown := set(names_of(row)) - names:
                what = f"label {min(unknown)!r} in {split} is not in train"
                raise InputError(
                    what, place(part.path, line, "label"), f"add such rows to train in {source}, or drop them"
                )
    return ordered(names)


def _both_tags(tags: Iterable[str]) -> set[str]:
    """The tags with both of every entity type: train may happen to have only ``B-`` of a rare one."""
    found = set(tags)
    kinds = {tag[2:] for tag in found if tag[:2] in ("B-", "I-")}
    return found | {f"{prefix}-{kind}" for kind in kinds for prefix in "BI"} | ({OUTSIDE} if kinds else set())


def names_of(row: Row) -> tuple[str, ...]:
    """The names that a row is labelled with; none for scores and unlabelled rows."""
    if isinstance(row.label, tuple):
        return row.label
    return (row.label,) if isinstance(row.label, str) else ()


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Class names sorted; by value where all are whole numbers."""
    found = set(names)
    if all(_WHOLE.fullmatch(name) for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))


def split_dev(rows: Sequence[Row], seed: int, where: str) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Move a tenth of the rows (at least one) to a dev part; every label keeps a row in train.

    Rows are drawn by a hash of seed and text: copies of a text stay together, and the order of the file
    does not matter.
    """
    left = Counter(name for row in rows for name in set(names_of(row)))
    # One row at least stays, also where none has a name.
    wanted = min(max(1, round(len(rows) * DEV_SHARE)), len(rows) - 1)
    chosen: set[int] = set()
    for index in sorted(range(len(rows)), key=lambda i: _rank(rows[i], seed)):
        names = set(names_of(rows[index]))
        if len(chosen) < wanted and all(left[name] > 1 for name in names):
            left.subtract(names)
            chosen.add(index)
    if not chosen:
        raise InputError("too few rows to set some aside as dev", where, "give more rows, or a dev file")
    train = tuple(row for index, row in enumerate(rows) if index not in chosen)
    return train, tuple(rows[index] for index in sorted(chosen))


def _rank(row: Row, seed: int) -> bytes:
    return hashlib.sha256(json.dumps([seed, row.text, row.text_b]).encode()).digest()


def _duplicate_notes(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    counts = {split: len(part) - len(set(part)) for split, part in rows.items()}
    return [f"{split}: {count} rows are exact copies of others" for split, count in counts.items() if count]


def _overlap_warnings(rows: Mapping[str, Sequence[Row]]) -> tuple[str, ...]:
    known = {(row.text, row.text_b) for row in rows["train"]}
    test = rows.get("test", ())
    count = sum((row.text, row.text_b) in known for row in test)
    return (f"{count} of {len(test)} test texts are also in train",) if count else ()


def _digest(rows: Mapping[str, Sequence[Row]], labels: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps(list(labels)).encode())
    for split in SPLITS:
        digest.update(f"\n{split}\n".encode())
        for row in rows[split]:
            words = [row.words] if row.words else []
            digest.update(json.dumps([row.text, row.text_b, row.label, *words]).encode() + b"\n")
    return digest.hexdigest()


def match_labels(data: Data, labels: tuple[str, ...], kind: Kind = "label") -> Data | None:
    """The data with a checkpoint's label names, in its order, or None where the two do not match.

    ``kind`` is what the checkpoint learned from; scores match whatever their only label is called. Names match
    when they are the same but for case, or when the data's are indices (``0``, or ``LABEL_0``) and run from 0
    to one less than the number of the checkpoint's.
    """
    if data.kind != kind or kind == "none":
        return None
    if kind == "score":
        return data
    if len(data.labels) != len(labels):
        return None
    if data.labels == labels:
        return data
    renamed = _by_name(data.labels, labels) or _by_index(data.labels, labels)
    return None if renamed is None else _relabel(data, labels, renamed)


def _by_name(ours: Sequence[str], theirs: Sequence[str]) -> dict[str, str] | None:
    spelling = {name.casefold(): name for name in theirs}
    renamed = {name: spelling[name.casefold()] for name in ours if name.casefold() in spelling}
    return renamed if len(set(renamed.values())) == len(theirs) else None


def _by_index(ours: Sequence[str], theirs: Sequence[str]) -> dict[str, str] | None:
    numbers = {name: int(match[1]) for name in ours if (match := re.fullmatch(r"(?:LABEL_)?(\d+)", name))}
    if sorted(numbers.values()) != list(range(len(theirs))):
        return None
    return {name: theirs[index] for name, index in numbers.items()}


def _relabel(data: Data, labels: tuple[str, ...], renamed: Mapping[str, str]) -> Data:
    train, dev, test = (tuple(_renamed(row, renamed) for row in part) for part in (data.train, data.dev, data.test))
    digest = _digest({"train": train, "dev": dev, "test": test}, labels)
    return replace(data, train=train, dev=dev, test=test, labels=labels, digest=digest)


def _renamed(row: Row, names: Mapping[str, str]) -> Row:
    found = tuple(names[name] for name in names_of(row))
    return replace(row, label=found if isinstance(row.label, tuple) else found[0])


def single_texts(rows: Sequence[Row]) -> list[Row]:
    """Every text on its own, unlabelled: neither sentence encoders nor masked models know pairs."""
    return [Row(text) for row in rows for text in (row.text, row.text_b) if text is not None]


def sample_texts(rows: Sequence[Row], count: int, seed: int = 0) -> tuple[Row, ...]:
    """Up to ``count`` different rows, spread evenly over the lengths, shortest and longest included."""
    distinct = {(row.text, row.text_b): row for row in rows}.values()
    by_length = sorted(distinct, key=lambda row: (len(row.text) + len(row.text_b or ""), _rank(row, seed)))
    if count >= len(by_length):
        return tuple(by_length)
    last = len(by_length) - 1
    return tuple(by_length[round(i * last / max(1, count - 1))] for i in range(count))
