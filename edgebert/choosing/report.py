"""The report of a sweep: report.json for programs, report.md for a pull request, report.html for people.

What is said, and in which units, is decided here; how it looks is in templates/, the drawing in plots.py.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from edgebert.choosing import budget as budgets
from edgebert.choosing import plots
from edgebert.choosing.budget import Budget
from edgebert.choosing.candidate import Candidate, Report
from edgebert.choosing.pick import points_lost
from edgebert.judging.metrics import Metric
from edgebert.stage import write_json

MISSING = "–"
# The parity ledger's way to say that an output was NaN or infinite: JSON has no word for it.
_NOT_FINITE = 1e300
# Up to this share of the latency, a fitted line's largest miss still passes for straight.
_STRAIGHT = 0.1


def write_report(folder: Path, report: Report) -> Path:
    """Write report.json, report.md and report.html into a folder, each whole or not at all.

    Returns the path of report.html. The same report gives the same bytes. Raises OSError where the folder
    cannot be written to.
    """
    view = _view(report)
    markdown = _templates().get_template("report.md.j2").render(view)
    page = _templates().get_template("report.html.j2").render(view)
    write_json(folder / "report.json", to_dict(report))
    _write_text(folder / "report.md", markdown)
    _write_text(folder / "report.html", page)
    return folder / "report.html"


def to_dict(report: Report) -> dict[str, Any]:
    """The report as JSON types: its fields, with the verdict's ``pick`` and ``nearest`` at the top.

    ``nearest`` are the candidates that were not picked, nearest first, each with ``why``.
    """
    verdict = report.verdict
    document: dict[str, Any] = {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}
    document |= {
        "pick": verdict.pick.to_dict() if verdict.pick else None,
        "nearest": [{**candidate.to_dict(), "why": why} for candidate, why in verdict.nearest],
        "verdict": {"reason": verdict.reason, "ties": verdict.ties},
        "teacher": report.teacher.to_dict() if report.teacher else None,
        "candidates": [candidate.to_dict() for candidate in report.candidates],
    }
    plain: dict[str, Any] = json.loads(json.dumps(document))
    return plain


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Limit:
    """What binds: a latency budget, a loss of at most ``max_drop`` points, or both."""

    budget: Budget | None
    max_drop: float | None

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Limit:
        """From ``Report.budget``: the ``limits`` of a Budget and ``max_drop``, each missing where not set."""
        return cls(Budget.from_list(described.get("limits", [])), described.get("max_drop"))

    @property
    def percentile(self) -> str:
        """The percentile that the report speaks of: the budget's, or p50 where there is none."""
        return self.budget.percentile if self.budget else "p50"

    def words(self) -> str:
        """What binds, in one phrase without a full stop."""
        parts = [limit.phrase for limit in self.budget.limits] if self.budget else []
        if self.max_drop is not None:
            parts.append(f"at most {self.max_drop:g} points below the teacher")
        return ", ".join(parts) or "none"


@dataclass(frozen=True)
class Row:
    """A candidate in the table. ``state`` is picked, fits, over, untrained or failed; ``status`` says it."""

    candidate: Candidate
    state: str
    status: str


@dataclass(frozen=True)
class Cost:
    """One price of the pick, against the teacher: the ``change`` in large letters, the two values below."""

    name: str
    change: str
    values: str


@dataclass(frozen=True)
class Figure:
    """A figure with its heading and its finding, which says in words what the drawing shows."""

    name: str
    heading: str
    finding: str
    drawing: plots.Drawing


def _view(report: Report) -> dict[str, Any]:
    """Everything the templates show."""
    limit, pick = Limit.of(report.budget), report.verdict.pick
    about = {"model": report.model, "data": report.data, "machine": report.environment}
    return {
        "report": report,
        "limit": limit,
        "pick": pick,
        "title": f"{_name_of(report.model)} on {_name_of(report.data)}",
        "metric": _metric_name(report),
        "results": _results(pick, limit) if pick else [],
        "costs": _costs(pick, report.teacher, limit, report.verdict.against_teacher) if pick and report.teacher else [],
        "figures": _figures(report, limit),
        "rows": [_row(candidate, report, limit) for candidate in _ordered(report)],
        "ledgers": [candidate for candidate in _ordered(report) if candidate.stages],
        "about": [(name, facts(described)) for name, described in about.items()],
    }


def _name_of(described: Mapping[str, Any]) -> str:
    return str(described.get("name") or described.get("path") or "unnamed")


def _metric_name(report: Report) -> str:
    known = (c.test or c.dev for c in (*report.candidates, *filter(None, [report.teacher])))
    return next((metric.name for metric in known if metric), "accuracy")


def _ordered(report: Report) -> list[Candidate]:
    """The candidates by target and precision, shallow to deep; the teacher too where it is not among them."""
    candidates = list(report.candidates)
    if report.teacher and report.teacher.key not in {c.key for c in candidates}:
        candidates.append(report.teacher)
    return sorted(candidates, key=lambda c: (c.target, c.precision, c.layers))


# The verdict


def _results(pick: Candidate, limit: Limit) -> list[str]:
    """What the pick reached, clause by clause."""
    clauses = []
    if pick.test:
        clauses.append(f"{score_words(pick.test)} ({metric_span(pick.test)})")
    percentile = limit.percentile if plots.spread(pick.latency, limit.percentile) else "p50"
    latency = plots.spread(pick.latency, percentile)
    if latency:
        clauses.append(f"{percentile} {ms(latency[0])} ms ({span(latency[1:])})")
    return [*clauses, f"{mb(pick.bytes)} MB"]


def _costs(pick: Candidate, teacher: Candidate, limit: Limit, paired: Metric | None) -> list[Cost]:
    """The pick against the full-depth fp32 teacher; what was not measured on both is left out."""
    costs = []
    if pick.test and teacher.test:
        change = 100 * (pick.test.value - teacher.test.value)
        values = f"{score(pick.test)} against {score(teacher.test)} {unit(teacher.test)}"
        if paired is not None:
            values += f"; 95 % of paired resamples {signed(100 * paired.low)} to {signed(100 * paired.high)}"
        costs.append(Cost("quality", f"{signed(change)} points", values))
    percentile = limit.percentile if plots.spread(teacher.latency, limit.percentile) else "p50"
    ours, theirs = plots.spread(pick.latency, percentile), plots.spread(teacher.latency, percentile)
    if ours and theirs:
        values = f"{percentile} {ms(ours[0])} against {ms(theirs[0])} ms"
        costs.append(Cost("speed", f"{theirs[0] / ours[0]:.1f}× as fast", values))
    if pick.bytes and teacher.bytes:
        values = f"{mb(pick.bytes)} against {mb(teacher.bytes)} MB"
        ratio = teacher.bytes / pick.bytes
        costs.append(Cost("size", f"{ratio:.1f}× smaller" if ratio >= 1 else f"{1 / ratio:.1f}× larger", values))
    return costs


def _row(candidate: Candidate, report: Report, limit: Limit) -> Row:
    pick = report.verdict.pick
    if candidate.failed:
        return Row(candidate, "failed", f"failed: {candidate.failed}")
    if pick and candidate.key == pick.key:
        return Row(candidate, "picked", "picked")
    teacher = ["the teacher"] if report.teacher and candidate.key == report.teacher.key else []
    misses = _misses(candidate, report.teacher, limit)
    if not candidate.trained:
        fast = ["fast enough"] if limit.budget else []
        return Row(candidate, "untrained", "; ".join([*teacher, "not trained", *(misses or fast)]))
    if misses:
        return Row(candidate, "over", "; ".join([*teacher, *misses]))
    tied = ["tied with the pick"] if candidate.name in report.verdict.ties else []
    return Row(candidate, "fits", "; ".join([*teacher, "fits", *tied]))


def _misses(candidate: Candidate, teacher: Candidate | None, limit: Limit) -> list[str]:
    """By how much a candidate misses the budget, in words: nothing where it fits."""
    misses = (
        [_miss(candidate, each) for each in limit.budget.limits if not each.fits(candidate)] if limit.budget else []
    )
    lost = points_lost(candidate, teacher)
    if limit.max_drop is not None and lost is not None and lost > limit.max_drop:
        misses.append(f"{lost:.1f} points below the teacher on dev")
    return misses


def _miss(candidate: Candidate, limit: budgets.Limit) -> str:
    """By how much one limit is missed."""
    if not limit.is_latency:
        over = limit.interval(candidate)[1] - limit.most
        return f"{limit.quantity} over by {mb(round(over))} MB" if over < math.inf else f"{limit.quantity} not measured"
    latency = plots.spread(candidate.latency, limit.quantity)
    if latency is None:
        return f"{limit.quantity} not measured"
    if latency[0] > limit.most:
        return f"over by {ms(latency[0] - limit.most)} ms"
    return f"may be over: {limit.quantity} up to {ms(latency[2])} ms"


# The figures


def _figures(report: Report, limit: Limit) -> list[Figure]:
    metric = _metric_name(report)
    label = f"{metric} on test, {'%' if metric == 'accuracy' else 'points'}"
    candidates = [c for c in _ordered(report) if not c.failed]
    # Too few samples for a p95 leave the p50, which the budget says nothing about.
    measured = any(plots.spread(c.latency, limit.percentile) for c in candidates)
    percentile = limit.percentile if measured else "p50"
    bound = limit.budget.latency if limit.budget and measured else None
    budget_ms = bound.most if bound else None
    scene = plots.Scene(candidates, report.verdict.pick, percentile, budget_ms, label, report.depth_lines)
    words = {
        "quality": (f"{metric.capitalize()} against latency", _quality_finding),
        "depth": ("Latency against layers", _depth_finding),
        "sizes": ("Size by depth and precision", _sizes_finding),
    }
    return [Figure(name, words[name][0], words[name][1](scene), drawing) for name, drawing in plots.draw(scene).items()]


def _quality_finding(scene: plots.Scene) -> str:
    points = plots.comparable(scene)
    best = plots.front(points)
    share = f"{len(best)} of {len(points)} trained" if len(points) > 1 else "The one trained"
    number = "candidates are" if len(best) > 1 else "candidate is"
    start = f"{share} {number} on the Pareto front, where nothing else is both faster and better."
    place = next((i for i, (candidate, _, _) in enumerate(best) if scene.is_pick(candidate)), None)
    if place is not None:
        return " ".join([start, f"The pick is {_point(best[place])}.", *_neighbours(best, place)])
    if scene.pick:
        return f"{start} The pick, {short(scene.pick)}, is not: dev chose it, and this is test."
    return f"{start} It runs from {_point(best[0])} to {_point(best[-1])}." if len(best) > 1 else start


def _neighbours(best: Sequence[plots.Point], place: int) -> list[str]:
    """What one step along the front would cost and bring, either way."""
    _, here, value = best[place]
    steps = []
    if place > 0:
        candidate, x, y = best[place - 1]
        steps.append(f"One step faster, {short(candidate)} saves {ms(here - x)} ms for {100 * (value - y):.1f} points.")
    if place + 1 < len(best):
        candidate, x, y = best[place + 1]
        steps.append(f"One step better, {short(candidate)} gains {100 * (y - value):.1f} points for {ms(x - here)} ms.")
    return steps


def _point(point: plots.Point) -> str:
    candidate, x, _ = point
    return f"{short(candidate)} with {score_words(candidate.test)} at {ms(x)} ms" if candidate.test else ""


def _depth_finding(scene: plots.Scene) -> str:
    if not scene.lines:
        return "Latency of each measured depth; too few depths for a fitted line."
    fits = [
        f"{scene.series_name((line['precision'], line['target']))} takes {ms(line['b'])} ms per layer "
        f"and {ms(line['a'])} ms besides (off by at most {100 * line['worst']:.0f} %)"
        for line in scene.lines
    ]
    straight = max(line["worst"] for line in scene.lines) <= _STRAIGHT
    start = "grows with depth in a straight line" if straight else "is no straight line over depth"
    return f"Latency {start}: {'; '.join(fits)}."


def _sizes_finding(scene: plots.Scene) -> str:
    sized = sorted((c for c in scene.candidates if c.bytes), key=lambda c: c.bytes)
    picked = f" The pick takes {mb(scene.pick.bytes)} MB." if scene.pick else ""
    small, large = sized[0], sized[-1]
    return f"From {mb(small.bytes)} MB ({short(small)}) to {mb(large.bytes)} MB ({short(large)}).{picked}"


# Words and numbers, as people read them


def layers(count: int) -> str:
    """A number of layers, in words."""
    return f"{count} layer" if count == 1 else f"{count} layers"


def short(candidate: Candidate) -> str:
    """A candidate in two words."""
    return f"{layers(candidate.layers)} {candidate.precision}"


def full(candidate: Candidate) -> str:
    """A candidate with its target."""
    return f"{layers(candidate.layers)}, {candidate.precision} on {candidate.target}"


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


def facts(described: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A mapping as pairs of label and text, for model, data and machine; None is left out."""
    return [
        (key.removesuffix("_bytes").replace("_", " "), _fact(key, value))
        for key, value in described.items()
        if value is not None
    ]


def _fact(key: str, value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(str(name), inner)}" for name, inner in value.items()) or MISSING
    if isinstance(value, (list, tuple)):
        return ", ".join(_fact("", inner) for inner in value) or MISSING
    if isinstance(value, int) and not isinstance(value, bool) and key.endswith("bytes"):
        return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{mb(value)} MB"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def markdown_text(text: object) -> str:
    """Text that stays text inside a Markdown table or paragraph, on one line."""
    line = " ".join(str(text).split())
    for mark in ("\\", "|", "`", "*", "_", "[", "<"):
        line = line.replace(mark, f"\\{mark}")
    return line


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("edgebert.choosing", "templates"),
        autoescape=lambda name: bool(name and name.endswith(".html.j2")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {
        "error": error,
        "full": full,
        "mb": mb,
        "md": markdown_text,
        "metric_span": metric_span,
        "ms": ms,
        "score": score,
        "sentence": sentence,
    }
    templates.globals |= {"spread": plots.spread, "span": span}
    return templates
