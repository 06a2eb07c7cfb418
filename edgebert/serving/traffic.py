"""What a batcher has done so far, as plain numbers."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

# Percentiles are of this many latest answers.
RECENT = 2048


# Where the counts of what was ever seen are parted, in seconds and in texts.
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
TEXTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


@dataclass(frozen=True)
class Spread:
    """How a quantity was spread since the beginning.

    ``counts`` say how many were at most each of the ``bounds``, and last how many there were; ``total`` is their sum.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


@dataclass(frozen=True)
class Metrics:
    """A batcher's counts since it began, and the times of its latest 2,048 answers in milliseconds.

    ``full``, ``late`` and ``cancelled`` requests were not answered; ``failed`` ones were answered by an error.
    ``queue_ms`` is the wait from the call to the engine, ``latency_ms`` from the call to the answer; each is the
    50th, 95th and 99th percentile, NaN before the first answer. ``padding`` is the share of the engine's
    tokens that were padding. What can be added up over time and processes is counted beside it: ``padding_tokens``,
    and the spreads of ``queue_seconds``, ``latency_seconds`` and ``batch_texts``.
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
    padding_tokens: int
    queue_seconds: Spread
    latency_seconds: Spread
    batch_texts: Spread


class Tally:
    """A spread while it grows."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, values: Iterable[float]) -> None:
        """Count these."""
        for value in values:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._total += value

    def spread(self) -> Spread:
        """What is counted so far."""
        return Spread(self._bounds, tuple(accumulate(self._counts)), self._total)


@dataclass
class Counts:
    """The same while it grows; whoever changes it holds the batcher's lock."""

    answered: int = 0
    failed: int = 0
    full: int = 0
    late: int = 0
    cancelled: int = 0
    batches: int = 0
    tokens: int = 0
    padded: int = 0
    queue: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    latency: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    queue_tally: Tally = field(default_factory=lambda: Tally(SECONDS))
    latency_tally: Tally = field(default_factory=lambda: Tally(SECONDS))
    batch_tally: Tally = field(default_factory=lambda: Tally(TEXTS))

    def batch(self, lengths: Sequence[int], queue: Sequence[float], latency: Sequence[float]) -> None:
        """Count a batch that was answered: texts of so many tokens, and how many seconds each waited and took."""
        self.answered += len(lengths)
        self.batches += 1
        self.tokens += sum(lengths)
        self.padded += max(lengths) * len(lengths)
        self.queue += queue
        self.latency += latency
        self.queue_tally.add(queue)
        self.latency_tally.add(latency)
        self.batch_tally.add([len(lengths)])

    def metrics(self, waiting: int) -> Metrics:
        """What is counted so far, beside ``waiting`` requests."""
        return Metrics(
            waiting, self.answered, self.failed, self.full, self.late, self.cancelled, self.batches,
            self.answered / self.batches if self.batches else 0.0, self.tokens,
            1 - self.tokens / self.padded if self.padded else 0.0,
            _percentiles(self.queue), _percentiles(self.latency), self.padded - self.tokens,
            self.queue_tally.spread(), self.latency_tally.spread(), self.batch_tally.spread(),
        )  # fmt: skip


def _percentiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    ordered = sorted(seconds)
    if not ordered:
        return math.nan, math.nan, math.nan
    p50, p95, p99 = (ordered[math.ceil(share * len(ordered)) - 1] * 1e3 for share in (0.5, 0.95, 0.99))
    return p50, p95, p99
