"""Budgets in the user's words: ``p95=10ms``, ``p50=800us``; and how a latency stands against one."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from edgebert.errors import UsageError
from edgebert.judging.latency import Latency

_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_PATTERN = re.compile(r"\s*(\w+)\s*=\s*([-+.0-9]*(?:e[+-]?[0-9]+)?)\s*([a-z]*)\s*", re.IGNORECASE)
_QUANTITIES = ("p50", "p95")


@dataclass(frozen=True)
class Budget:
    """An upper limit in ms on a latency percentile (``p50`` or ``p95``) of one text per call, text to answer."""

    quantity: str
    limit_ms: float

    def __str__(self) -> str:
        return f"{self.quantity}={self.limit_ms:g}ms"

    def upper(self, latency: Latency) -> float:
        """The value that must not exceed the limit: the upper end of the interval (infinite if unmeasured)."""
        value = latency.p50_high if self.quantity == "p50" else latency.p95_high
        return math.inf if value is None else value

    def lower(self, latency: Latency) -> float:
        """The lower end of the interval: below the limit, noise alone may explain a miss."""
        value = latency.p50_low if self.quantity == "p50" else latency.p95_low
        return math.inf if value is None else value

    def fits(self, latency: Latency) -> bool:
        """Whether the latency is within the limit, its uncertainty included."""
        return self.upper(latency) <= self.limit_ms

    def may_fit(self, latency: Latency) -> bool:
        """Whether measuring again could find it within the limit."""
        return self.lower(latency) <= self.limit_ms


def parse_budget(text: str) -> Budget:
    """Read ``p95=10ms``. Raises UsageError for another quantity, a missing unit, or no positive number."""
    example = "for example p95=10ms"
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise UsageError(f"unreadable budget {text!r}", "--budget", example)
    quantity, number, unit = match[1].lower(), match[2], match[3].lower()
    if quantity not in _QUANTITIES:
        raise UsageError(f"unknown quantity {quantity!r}", "--budget", f"one of {', '.join(_QUANTITIES)}, {example}")
    if unit not in _UNITS:
        raise UsageError(
            f"no unit in {text!r}" if not unit else f"unknown unit {unit!r}",
            "--budget",
            f"us, ms or s, {example}",
        )
    try:
        limit = float(number) * _UNITS[unit]
    except ValueError:
        raise UsageError(f"{number!r} is no number", "--budget", example) from None
    if not (math.isfinite(limit) and limit > 0):
        raise UsageError(f"a budget must be positive, not {number}", "--budget", example)
    return Budget(quantity, limit)


def check_max_drop(points: float | None) -> None:
    """Raise UsageError unless ``--max-drop`` is a number of points from 0 to 100, or absent."""
    if points is not None and not 0 <= points <= 100:
        raise UsageError(f"a drop of {points} points means nothing", "--max-drop", "points from 0 to 100")
