"""What the labels of all rows together are: names, several a text, scores, tags, answers; and the names in order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from edgebert.errors import InputError
from edgebert.spans import OUTSIDE
from edgebert.tasks import Kind
from edgebert.training.formats import place
from edgebert.training.rows import Label, Part, Row

# Kinds whose labels are names.
NAMED: tuple[Kind, ...] = ("label", "labels", "tags")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WHOLE = re.compile(r"[+-]?\d+")


def kind_of(parts: Mapping[str, Part]) -> Kind:
    """What the labels of all parts together are: names, several names a text, scores, tags, answers, or nothing."""
    labelled = {split: part.rows[0].labelled for split, part in parts.items()}
    if not any(labelled.values()):
        return "none"
    if not all(labelled.values()):
        split = next(split for split, yes in labelled.items() if not yes)
        raise InputError("this part has no labels, but others do", str(parts[split].path), "label all parts, or none")
    answered = {row.answers is not None for part in parts.values() for row in part.rows}
    if len(answered) > 1:
        raise InputError("answers in some parts, labels in others", str(parts["train"].path), "give answers in all")
    if answered == {True}:
        return "answers"
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


def settle_labels(part: Part, kind: Kind) -> Part:
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


def labels_of(parts: Mapping[str, Part], source: Path, kind: Kind) -> tuple[str, ...]:
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
