"""What the pick answers otherwise than the teacher, text by text: pure functions on arrays.

A change is the pick minus the teacher, so what was lost is negative. Fractions, as everywhere; what people
read as points is made of them in report.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgebert.judging.metrics import Scores, difference
from edgebert.training.data import Row

Answers = npt.NDArray[np.int64]

# Enough for a pattern to show, and few enough to be read.
_EXAMPLES = 10


@dataclass(frozen=True)
class ClassChange:
    """One class: how many ``texts`` of it, the share that each answers right, and the difference.

    [low, high] is the paired 95 % interval of ``change``, resampled among the class's own texts. ``lost`` and
    ``gained`` count the texts behind it.
    """

    label: str
    texts: int
    teacher: float
    pick: float
    change: float
    low: float
    high: float
    lost: int
    gained: int


@dataclass(frozen=True)
class Flips:
    """Of ``texts``: right to wrong (``lost``), wrong to right (``gained``), wrong to another wrong (``moved``)."""

    texts: int
    lost: int
    gained: int
    moved: int


@dataclass(frozen=True)
class Example:
    """A text that the teacher has right and the pick has wrong, and how sure each was of its answer."""

    text: str
    text_b: str | None
    label: str
    teacher_confidence: float
    pick: str
    pick_confidence: float


@dataclass(frozen=True)
class Changes:
    """All of it. ``classes`` begin with the one that lost most, ``examples`` with the surest mistake."""

    flips: Flips
    classes: tuple[ClassChange, ...]
    examples: tuple[Example, ...]


def changes_between(pick: Scores, teacher: Scores, rows: Sequence[Row]) -> Changes | None:
    """What changed on ``rows``, the texts that both were scored on; None where answers were not kept.

    Raises ValueError where the three are not about the same texts.
    """
    if pick.predicted is None or teacher.predicted is None or pick.confidence is None or teacher.confidence is None:
        return None
    if not len(pick.predicted) == len(teacher.predicted) == len(rows):
        raise ValueError("changes need answers to one set of texts")
    labels = sorted({*pick.labels, *teacher.labels, *(str(row.label) for row in rows)})
    index = {label: number for number, label in enumerate(labels)}
    expected = np.array([index[str(row.label)] for row in rows], dtype=np.int64)
    # Two models may name the same classes in different orders.
    ours, theirs = (_in_order(scores, index) for scores in (pick, teacher))
    worst = _worst(expected, ours, theirs, pick.confidence)[:_EXAMPLES]
    return Changes(
        flips=count_flips(expected, ours, theirs),
        classes=class_changes(expected, ours, theirs, labels),
        examples=tuple(
            Example(
                rows[i].text, rows[i].text_b, str(rows[i].label), float(teacher.confidence[i]),
                labels[ours[i]], float(pick.confidence[i]),
            )
            for i in worst
        ),
    )  # fmt: skip


def count_flips(expected: Answers, pick: Answers, teacher: Answers) -> Flips:
    """How many answers changed, by what became of them; all three [n]."""
    ours, theirs = pick == expected, teacher == expected
    moved = ~ours & ~theirs & (pick != teacher)
    return Flips(len(expected), int((theirs & ~ours).sum()), int((ours & ~theirs).sum()), int(moved.sum()))


def class_changes(expected: Answers, pick: Answers, teacher: Answers, labels: Sequence[str]) -> tuple[ClassChange, ...]:
    """The classes that have texts, the one that lost most first; equal ones in the order of ``labels``."""
    found = []
    for number, label in enumerate(labels):
        own = expected == number
        if own.any():
            found.append(_class_change(label, pick[own] == number, teacher[own] == number))
    return tuple(sorted(found, key=lambda change: change.change))


def _class_change(label: str, ours: npt.NDArray[np.bool_], theirs: npt.NDArray[np.bool_]) -> ClassChange:
    hits = [Scores("accuracy", right.astype(np.float64)[:, None]) for right in (ours, theirs)]
    gap = difference(*hits)
    return ClassChange(
        label, len(ours), float(theirs.mean()), float(ours.mean()), gap.value, gap.low, gap.high,
        lost=int((theirs & ~ours).sum()), gained=int((ours & ~theirs).sum()),
    )  # fmt: skip


def _in_order(scores: Scores, index: dict[str, int]) -> Answers:
    """Answers as indices of one common order of the labels."""
    common = np.array([index[label] for label in scores.labels], dtype=np.int64)
    answers: Answers = common[scores.predicted]
    return answers


def _worst(
    expected: Answers, pick: Answers, teacher: Answers, confidence: npt.NDArray[np.float32]
) -> npt.NDArray[np.intp]:
    """Where the teacher is right and the pick wrong, the surest of its mistakes first."""
    places = np.flatnonzero((teacher == expected) & (pick != expected))
    return places[np.argsort(-confidence[places], kind="stable")]
