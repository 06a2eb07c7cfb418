"""Budgets in the user's words: ``p95=10ms``, ``p50=800us``, ``size=25MB``, ``memory=200MB``, or several at once."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgebert.choosing.candidate import Candidate
from edgebert.errors import UsageError

_TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_SIZES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
# Quantity -> its units, and what a unit stands for.
_QUANTITIES: Mapping[str, tuple[Mapping[str, float], str]] = {
    "p50": (_TIMES, "us, ms or s"),
    "p95": (_TIMES, "us, ms or s"),
    "size": (_SIZES, "kB, MB or GB"),
    "memory": (_SIZES, "kB, MB or GB"),
}
_PATTERN = re.compile(r"\s*(\w+)\s*=\s*([-+.0-9]*(?:e[+-]?[0-9]+)?)\s*([a-z]*)\s*", re.IGNORECASE)
_EXAMPLE = "for example p95=10ms, or p95=10ms,size=25MB"


@dataclass(frozen=True)
class Limit:
    """The most that one quantity may be.

    ``p50`` and ``p95`` are in ms of one text per call, text to answer; ``size`` is the artifact's bytes,
    ``memory`` the bytes that a process holds after answering.
    """

    quantity: str
    most: float

    def __str__(self) -> str:
        return self.phrase.replace(" ", "")

    @property
    def phrase(self) -> str:
        """The limit as people write it."""
        most = f"{self.most:.6g} ms" if self.is_latency else f"{self.most / 1e6:.6g} MB"
        return f"{self.quantity} = {most}"

    @property
    def is_latency(self) -> bool:
        """Whether it limits a percentile of the latency."""
        return _QUANTITIES[self.quantity][0] is _TIMES

    def interval(self, candidate: Candidate) -> tuple[float, float]:
        """Lower and upper end of what was measured; infinite where nothing was."""
        latency = candidate.latency
        found: tuple[float | None, float | None] = (None, None)
        if self.quantity == "size" and candidate.bytes:
            found = (candidate.bytes, candidate.bytes)
        elif latency and self.quantity == "memory" and latency.memory_bytes:
            found = (latency.memory_bytes, latency.memory_bytes)
        elif latency and self.quantity == "p50":
            found = (latency.p50_low, latency.p50_high)
        elif latency and self.quantity == "p95":
            found = (latency.p95_low, latency.p95_high)
        low, high = found
        return (math.inf, math.inf) if low is None or high is None else (low, high)

    def fits(self, candidate: Candidate) -> bool:
        """Whether the quantity is within the limit, its uncertainty included."""
        return self.interval(candidate)[1] <= self.most

    def may_fit(self, candidate: Candidate) -> bool:
        """Whether measuring again could find it within the limit."""
        return self.interval(candidate)[0] <= self.most

    def excess(self, candidate: Candidate) -> float:
        """The upper end as a multiple of the limit."""
        return self.interval(candidate)[1] / self.most

    def objection(self, candidate: Candidate) -> str | None:
        """Why the candidate does not fit, or None where it does."""
        if self.fits(candidate):
            return None
        upper = self.interval(candidate)[1]
        if math.isinf(upper):
            samples = candidate.latency.samples if candidate.latency else 0
            few = f": {samples} samples are too few" if self.is_latency and samples else ""
            return f"{self.quantity} is not known{few}"
        over = f"{self.excess(candidate) - 1:.0%} over the budget"
        shown = f"{upper:.3g} ms" if self.is_latency else f"{upper / 1e6:.4g} MB"
        return f"{self.quantity} {'up to ' * self.is_latency}{shown}, {over}"


@dataclass(frozen=True)
class Budget:
    """Limits that bind together; at least one, of different quantities."""

    limits: tuple[Limit, ...]

    def __str__(self) -> str:
        return ",".join(map(str, self.limits))

    @property
    def percentile(self) -> str:
        """The latency percentile that the budget speaks of, p50 where it speaks of none."""
        return next((limit.quantity for limit in self.limits if limit.is_latency), "p50")

    @property
    def latency(self) -> Limit | None:
        """The first limit on the latency."""
        return next((limit for limit in self.limits if limit.is_latency), None)

    def fits(self, candidate: Candidate) -> bool:
        """Whether every limit is kept, uncertainty included."""
        return all(limit.fits(candidate) for limit in self.limits)

    def may_fit(self, candidate: Candidate) -> bool:
        """Whether measuring again could find every limit kept."""
        return all(limit.may_fit(candidate) for limit in self.limits)

    def excess(self, candidate: Candidate) -> float:
        """By how much the worst limit is missed: upper end over limit."""
        return max(limit.excess(candidate) for limit in self.limits)

    def objections(self, candidate: Candidate) -> list[str]:
        """A sentence for every limit that is not kept."""
        return [why for limit in self.limits if (why := limit.objection(candidate)) is not None]

    def to_list(self) -> list[dict[str, Any]]:
        """The limits as plain JSON types."""
        return [{"quantity": limit.quantity, "most": limit.most} for limit in self.limits]

    @classmethod
    def from_list(cls, limits: list[dict[str, Any]]) -> Budget | None:
        """The inverse of :meth:`to_list`; None for no limits."""
        return cls(tuple(Limit(limit["quantity"], limit["most"]) for limit in limits)) if limits else None


def parse_budget(text: str) -> Budget:
    """Read ``p95=10ms`` or ``p95=10ms,size=25MB``.

    Raises UsageError for another quantity, one given twice, a missing unit, or no positive number.
    """
    limits = tuple(_parse_limit(part) for part in text.split(","))
    names = [limit.quantity for limit in limits]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{twice[0]} is limited twice in {text!r}", "--budget", _EXAMPLE)
    return Budget(limits)


def _parse_limit(text: str) -> Limit:
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise UsageError(f"unreadable budget {text!r}", "--budget", _EXAMPLE)
    quantity, number, unit = match[1].lower(), match[2], match[3].lower()
    if quantity not in _QUANTITIES:
        raise UsageError(f"unknown quantity {quantity!r}", "--budget", f"one of {', '.join(_QUANTITIES)}, {_EXAMPLE}")
    units, named = _QUANTITIES[quantity]
    if unit not in units:
        what = f"unknown unit {unit!r}" if unit else f"no unit in {text!r}"
        raise UsageError(what, "--budget", f"{named}, {_EXAMPLE}")
    try:
        most = float(number) * units[unit]
    except ValueError:
        raise UsageError(f"{number!r} is no number", "--budget", _EXAMPLE) from None
    if not (math.isfinite(most) and most > 0):
        raise UsageError(f"a budget must be positive, not {number}", "--budget", _EXAMPLE)
    return Limit(quantity, most)


def check_max_drop(points: float | None) -> None:
    """Raise UsageError unless ``--max-drop`` is a number of points from 0 to 100, or absent."""
    if points is not None and not 0 <= points <= 100:
        raise UsageError(f"a drop of {points} points means nothing", "--max-drop", "points from 0 to 100")
