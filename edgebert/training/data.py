"""Labelled text: read from a folder or a file, checked, split, identified by a digest. torch-free.

How a file is cut into records is in ``formats.py``, what a record holds in ``rows.py``, what labels are in
``labels.py``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgebert.errors import InputError, UsageError
from edgebert.machine import readable
from edgebert.tasks import Kind
from edgebert.training.formats import READERS, extension_of
from edgebert.training.labels import NAMED, kind_of, labels_of, names_of, ordered, settle_labels
from edgebert.training.rows import FIELDS, Row, check_all_pairs_or_none, read_part

__all__ = ["Data", "Row", "match_labels", "names_of", "ordered", "read", "sample_texts", "single_texts", "split_dev"]

SPLITS = ("train", "dev", "test")
DEV_SHARE = 0.1


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


def read(path: Path | str, columns: Mapping[str, str] | None = None, seed: int = 0) -> Data:
    """Read a folder with train, dev and test files, or one file that is all train.

    ``columns`` maps the fields text, text_b and label, or tokens and tags, or question, context and answers, to the
    file's own column names.
    Without a dev file a seeded tenth of train becomes dev; without a test file, dev serves as test.
    Raises InputError naming file, line and field, UsageError for a field that does not exist.
    """
    columns = columns or {}
    if unknown := sorted(set(columns) - set(FIELDS)):
        raise UsageError(f"no field is called {unknown[0]!r}", "--columns", f"map some of {', '.join(FIELDS)}")
    source = Path(path)
    parts = {split: read_part(file, columns) for split, file in _find(source).items()}
    check_all_pairs_or_none(parts)
    kind = kind_of(parts)
    parts = {split: settle_labels(part, kind) for split, part in parts.items()}
    labels = labels_of(parts, source, kind) if kind in NAMED else ()
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
            more: list[object] = [row.words] if row.words else []
            more += [] if row.answers is None else [[answer.text, answer.start] for answer in row.answers]
            digest.update(json.dumps([row.text, row.text_b, row.label, *more]).encode() + b"\n")
    return digest.hexdigest()


def match_labels(data: Data, labels: tuple[str, ...], kind: Kind = "label") -> Data | None:
    """The data with a checkpoint's label names, in its order, or None where the two do not match.

    ``kind`` is what the checkpoint learned from; scores match whatever their only label is called, and answers have
    no labels. Names match when they are the same but for case, or when the data's are indices (``0``, or ``LABEL_0``)
    and run from 0 to one less than the number of the checkpoint's.
    """
    if data.kind != kind or kind == "none":
        return None
    if kind not in NAMED:
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
