"""Answers of two classifiers that nobody ran: seeded, so that a report made of them is always the same."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgebert.judging.metrics import Scores, accuracy
from edgebert.training.data import Row

_SUBJECTS = ("The delivery", "My last invoice", "A film of two hours", "The new card", "This very long story about it")
_ENDS = ("never came.", "is fine, more or less.", "was declined abroad & at home.", "left me cold <again>.", "works!")


def rows(labels: list[str], count: int) -> tuple[Row, ...]:
    """Short texts, their labels taken in turn."""
    return tuple(
        Row(f"{_SUBJECTS[i % 5]} {_ENDS[i // 5 % 5]} (text {i})", None, labels[i % len(labels)]) for i in range(count)
    )


def scores(
    labels: list[str], expected: npt.NDArray[np.int64], wrong: float, seed: int, near: Scores | None = None
) -> Scores:
    """A classifier that answers a share ``wrong`` of the texts anyhow, and the rest as ``near`` does, or right."""
    generator = np.random.default_rng(seed)
    before = expected if near is None or near.predicted is None else near.predicted
    lucky = generator.random(len(expected)) < 0.4
    anyhow = np.where(lucky, expected, generator.integers(0, len(labels), len(expected)))
    predicted = np.where(generator.random(len(expected)) < wrong, anyhow, before)
    hits = accuracy([labels[i] for i in predicted], [labels[i] for i in expected])
    confidence = generator.beta(8, 2, len(expected)).astype(np.float32)
    return Scores(hits.metric, hits.rows, tuple(labels), predicted.astype(np.int32), confidence)
