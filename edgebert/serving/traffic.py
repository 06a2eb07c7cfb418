"""What a batcher has done so far, as plain numbers."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

# Percentiles are of this many latest answers.
RECENT = 2048


@dataclass(frozen=True)
class Metrics:
    """A batcher's counts since it began, and the times of its latest 2,048 answers in milliseconds.

    ``full``, ``late`` and ``cancelled`` requests were not answered; ``failed`` ones were answered by an error.
    ``queue_ms`` is the wait from the call to the engine, ``latency_ms`` from the call to the answer; each is the
    50th, 95th and 99th percentile, NaN before the first answer. ``padding`` is the share of the engine's
    tokens that were padding.
    """

    waiting: int
    answered: int
    failed: int
    full: int
    late: int
    cancelled: int
    batches: int
    texts_per_batch: float
    tokens: int
    padding: float
    queue_ms: tuple[float, float, float]
    latency_ms: tuple[float, float, float]


@dataclass
class Counts:
    """The same while it grows; whoever changes it holds the batcher's lock."""

    answered: int = 0
    failed: int = 0
    full: int = 0
    late: int = 0
    cancelled: int = 0
    batches: int = 0
    taken: int = 0
    tokens: int = 0
    padded: int = 0
    queue: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    latency: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    def batch(self, lengths: Sequence[int]) -> None:
        """Count a batch that the engine was given: texts of so many tokens."""
        self.batches += 1
        self.taken += len(lengths)
        self.tokens += sum(lengths)
        self.padded += max(lengths) * len(lengths)

    def metrics(self, waiting: int) -> Metrics:
        """What is counted so far, beside ``waiting`` requests."""
        return Metrics(
            waiting, self.answered, self.failed, self.full, self.late, self.cancelled, self.batches,
            self.taken / self.batches if self.batches else 0.0, self.tokens,
            1 - self.tokens / self.padded if self.padded else 0.0,
            _percentiles(self.queue), _percentiles(self.latency),
        )  # fmt: skip


def _percentiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    ordered = sorted(seconds)
    if not ordered:
        return math.nan, math.nan, math.nan
    p50, p95, p99 = (ordered[math.ceil(share * len(ordered)) - 1] * 1e3 for share in (0.5, 0.95, 0.99))
    return p50, p95, p99
