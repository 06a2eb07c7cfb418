"""Words and numbers as people read them: candidates, milliseconds, megabytes, metrics, intervals."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgebert.choosing.candidate import Candidate
from edgebert.judging.metrics import Metric

MISSING = "–"
# The parity ledger's way to say that an output was NaN or infinite: JSON has no word for it.
_NOT_FINITE = 1e300


def layers(count: int) -> str:
    """A number of layers, in words."""
    return f"{count} layer" if count == 1 else f"{count} layers"


def short(candidate: Candidate) -> str:
    """A candidate in two words."""
    return f"{layers(candidate.layers)} {candidate.precision}"


def full(candidate: Candidate) -> str:
    """A candidate with its target, and which layers it has where they are not the first."""
    kept = candidate.kept_layers
    which = "" if kept == tuple(range(len(kept))) else f" ({', '.join(map(str, kept))})"
    return f"{layers(candidate.layers)}{which}, {candidate.precision} on {candidate.target}"


def sentence(text: str) -> str:
    """A clause as a sentence: a capital in front, a full stop behind."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def ms(value: float | None) -> str:
    """Milliseconds: two significant digits below 10, whole ones above."""
    if value is None:
        return MISSING
    digits = next((d for d, least in enumerate((9.95, 0.995, 0.0995)) if abs(value) >= least), 3)
    return minus(f"{value:.{digits}f}")


def mb(count: int) -> str:
    """Bytes as megabytes of 10^6."""
    if not count:
        return MISSING
    return f"{count / 1e6:.1f}" if count < 99.95e6 else f"{count / 1e6:.0f}"


def score(metric: Metric | None) -> str:
    """A metric times 100, without its unit."""
    return f"{100 * metric.value:.1f}" if metric else MISSING


def score_words(metric: Metric) -> str:
    """A metric with unit and name: shares in percent, correlations and cosines in points."""
    return f"{score(metric)} {unit(metric)}"


def unit(metric: Metric) -> str:
    """What follows the number of :func:`score`."""
    return "% accuracy" if metric.name == "accuracy" else f"points {metric.name}"


def metric_span(metric: Metric) -> str:
    """The interval of a metric, in the unit of :func:`score`."""
    return minus(f"{100 * metric.low:.1f}") + MISSING + minus(f"{100 * metric.high:.1f}")


def span(interval: Sequence[float]) -> str:
    """An interval in milliseconds."""
    return f"{ms(interval[0])}–{ms(interval[1])}"


def signed(value: float) -> str:
    """One decimal with its sign; no sign for a zero."""
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else minus(text)


def minus(text: str) -> str:
    """A hyphen before a number is a minus sign."""
    return text.replace("-", "−")


def error(value: float | None) -> str:
    """A small number to two significant digits."""
    if value is None:
        return MISSING
    return "not finite" if value >= _NOT_FINITE else f"{value:.2g}".replace("e-0", "e-")


def together(text: str) -> str:
    """Text whose numbers and units stay on one line."""
    return re.sub(r"(?<=\d) (?=\S)", "\u00a0", text)


def percent(share: float) -> str:
    """A share in percent, a whole number: for how sure a model is, where decimals say nothing."""
    return f"{100 * share:.0f} %"


def points(count: float) -> str:
    """An amount of points, in words."""
    return minus(f"{count:.1f} points")


def points_span(low: float, high: float) -> str:
    """The interval of a difference, given in fractions, in signed points."""
    return f"{signed(100 * low)} to {signed(100 * high)}"
