"""Requests as the world sends them: at random times, whether or not the last was answered.

Latency is counted from when a request was to be sent: a sender that falls behind makes nothing look faster.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Seconds from the beginning at which requests of a Poisson process come, ``rate`` a second on average."""
    generator, now = random.Random(seed), 0.0
    while (now := now + generator.expovariate(rate)) < seconds:
        yield now


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least a ``share`` of all do not exceed; NaN of none."""
    return sorted(values)[math.ceil(share * len(values)) - 1] if values else math.nan


def percentiles(seconds: Sequence[float]) -> str:
    """p50, p95 and p99 in milliseconds."""
    return ", ".join(f"{1e3 * percentile(seconds, share):.1f}" for share in (0.5, 0.95, 0.99))
