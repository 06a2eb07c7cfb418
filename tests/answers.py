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


def scores(labels: list[str], expected: npt.NDArray[np.int64], wrong: float, seed: int) -> Scores:
    """A classifier that answers a share ``wrong`` of the texts wrong."""
    generator = np.random.default_rng(seed)
    shift = generator.integers(1, len(labels), len(expected)) * (generator.random(len(expected)) < wrong)
    predicted = (expected + shift) % len(labels)
    hits = accuracy([labels[i] for i in predicted], [labels[i] for i in expected])
    confidence = generator.uniform(0.5, 1.0, len(expected)).astype(np.float32)
    return Scores(hits.metric, hits.rows, tuple(labels), predicted.astype(np.int32), confidence)
