"""What the report tells beside the verdict: the next millisecond either way, and what the pick answers otherwise.

Values become words and positions here; how they look is in templates/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgebert.choosing.candidate import Report, Step
from edgebert.choosing.changes import Changes, ClassChange, Flips
from edgebert.choosing.words import full, ms, points, points_span, signed

# Up to this many classes are one table; of more, the first are shown and the rest unfolds.
_ONE_TABLE, _FIRST = 15, 10
# The drawing of one interval, in its own units: GAP_WIDTH wide, with room for the dot at both ends.
GAP_WIDTH, _EDGE = 120.0, 5.0


@dataclass(frozen=True)
class Card:
    """One number in large letters: ``change``, with its name above and its ``values`` below."""

    name: str
    change: str
    values: str


@dataclass(frozen=True)
class ClassRow:
    """A class in the table. ``low``, ``dot`` and ``high`` are positions in the drawing of its interval.

    ``state`` is lost or gained where the interval leaves out zero, else unclear.
    """

    change: ClassChange
    state: str
    low: float
    dot: float
    high: float


@dataclass(frozen=True)
class ChangesView:
    """The changes, as the templates show them."""

    flips: Sequence[Card]
    first: Sequence[ClassRow]
    rest: Sequence[ClassRow]
    caution: str
    changes: Changes


def step_cards(report: Report) -> list[Card]:
    """The steps from the pick, each with its price."""
    names = {"faster": "One step faster", "better": "One step better", "untrained": "Not trained"}
    return [Card(f"{names[step.way]}: {full(step.candidate)}", _trade(step), _terms(step)) for step in report.steps]


def step_limits(report: Report) -> str:
    """What there is no step to, in a sentence; empty where there is one each way."""
    ways = {step.way for step in report.steps}
    ends = []
    if "faster" not in ways:
        ends.append("nothing faster than the pick was trained")
    if "better" not in ways:
        ends.append("nothing slower that was trained is more accurate on test")
    return "; ".join(ends)


def _trade(step: Step) -> str:
    """Both sides of the trade: the milliseconds and the points."""
    trade = f"{'−' if step.ms < 0 else '+'}{ms(abs(step.ms))} ms"
    return trade if step.gain is None else f"{trade}, {signed(100 * step.gain)} points"


def _terms(step: Step) -> str:
    """At what rate, how sure, and whether the budget allows it."""
    clauses = [f"by {step.percentile}"]
    if step.gain is None:
        clauses.append("latency only")
    elif step.ms < 0 <= step.gain:
        clauses.append("no worse on test, though dev chose the pick")
    if step.points_per_ms is not None:
        clauses.append(f"{points(step.points_per_ms)} per ms")
    if step.low is not None and step.high is not None:
        noise = ", so within the noise" if step.low <= 0 <= step.high else ""
        clauses.append(f"paired 95 % interval {points_span(step.low, step.high)} points{noise}")
    if step.needs_ms is not None:
        clauses.append(f"needs a budget of {step.percentile} = {ms(step.needs_ms)} ms")
    return "; ".join(clauses)


def changes_view(changes: Changes) -> ChangesView:
    """Everything that is shown of the changes."""
    rows = _class_rows(changes.classes)
    split = len(rows) if len(rows) <= _ONE_TABLE else _FIRST
    return ChangesView(_flip_cards(changes.flips), rows[:split], rows[split:], _caution(len(rows)), changes)


def _flip_cards(flips: Flips) -> list[Card]:
    told = (
        ("lost", flips.lost, "right before, wrong now"),
        ("gained", flips.gained, "wrong before, right now"),
        ("moved", flips.moved, "wrong before, wrong otherwise now"),
    )
    return [
        Card(name, f"{count:,}", f"{words}: {100 * count / flips.texts:.1f} % of {flips.texts:,} texts")
        for name, count, words in told
    ]


def _caution(classes: int) -> str:
    """What a reader of many intervals must know."""
    stray = round(0.05 * classes)
    if not stray:
        return ""
    number = "one interval leaves" if stray == 1 else f"{stray} intervals leave"
    return f"With {classes} classes, about {number} out zero by chance alone."


def _class_rows(classes: Sequence[ClassChange]) -> list[ClassRow]:
    """Rows on one scale, so that their drawings compare."""
    scale = max((max(abs(c.low), abs(c.high), abs(c.change)) for c in classes), default=0.0) or 1.0

    def place(change: float) -> float:
        return round(GAP_WIDTH / 2 + change / scale * (GAP_WIDTH / 2 - _EDGE), 1)

    return [ClassRow(c, _state(c), place(c.low), place(c.change), place(c.high)) for c in classes]


def _state(change: ClassChange) -> str:
    if change.high < 0:
        return "lost"
    return "gained" if change.low > 0 else "unclear"


def flip_sentence(flips: Flips) -> str:
    """The flips in one sentence, for a page without cards."""
    return (
        f"Of {flips.texts:,} test texts, {flips.lost:,} were right and are wrong now, {flips.gained:,} were wrong "
        f"and are right now, {flips.moved:,} are wrong otherwise than before: "
        f"{signed(100 * (flips.gained - flips.lost) / flips.texts)} points in all."
    )
