"""The report of a sweep: report.json for programs, report.md for a pull request, report.html for people.

What is said, and in which units, is decided here; how it looks is in templates/, the drawing in plots.py.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from edgebert.choosing import plots
from edgebert.choosing.budget import Budget, Limit
from edgebert.choosing.candidate import Candidate, Elsewhere, Report, Step
from edgebert.choosing.details import GAP_WIDTH, Card, changes_view, flip_sentence, step_cards, step_limits
from edgebert.choosing.pick import points_lost
from edgebert.choosing.words import (
    MISSING,
    error,
    full,
    mb,
    metric_span,
    ms,
    percent,
    points_span,
    score,
    score_words,
    sentence,
    short,
    signed,
    span,
    together,
    unit,
)
from edgebert.judging.metrics import Metric
from edgebert.stage import write_json, write_text

# The one picture that belongs beside the verdict.
_LEAD = "quality"
_NO_CHANGES = (
    "Which answers changed against the teacher is told for single-label classification only, where the answers were "
    "kept: not of this fit."
)
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
    write_text(folder / "report.md", markdown)
    write_text(folder / "report.html", page)
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
        "verdict": {"reason": verdict.reason, "ties": verdict.ties, "as_fast": verdict.as_fast},
        "teacher": report.teacher.to_dict() if report.teacher else None,
        "candidates": [candidate.to_dict() for candidate in report.candidates],
        "steps": [{**_fields(step), "candidate": _named(step.candidate)} for step in report.steps],
        "changes": dataclasses.asdict(report.changes) if report.changes else None,
        "devices": [_device(device) for device in report.devices],
    }
    plain: dict[str, Any] = json.loads(json.dumps(document))
    return plain


def _fields(step: Step) -> dict[str, Any]:
    return {field.name: getattr(step, field.name) for field in dataclasses.fields(step)}


def _device(device: Elsewhere) -> dict[str, Any]:
    pick = device.verdict.pick
    return {
        "name": device.name, "environment": device.environment, "conditions": device.conditions,
        "pick": pick.to_dict() if pick else None, "reason": device.verdict.reason,
        "candidates": [candidate.to_dict() for candidate in device.candidates],
    }  # fmt: skip


def _named(candidate: Candidate) -> dict[str, Any]:
    """What tells a candidate from the others; ``candidates`` has the rest of it."""
    return {"layers": candidate.layers, "target": candidate.target, "precision": candidate.precision}


@dataclass(frozen=True)
class Terms:
    """What binds: a latency budget, a loss of at most ``max_drop`` points, or both."""

    budget: Budget | None
    max_drop: float | None

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Terms:
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
class Figure:
    """A figure with its heading and its finding, which says in words what the drawing shows."""

    name: str
    heading: str
    finding: str
    drawing: plots.Drawing


def _view(report: Report) -> dict[str, Any]:
    """Everything the templates show."""
    limit, pick = Terms.of(report.budget), report.verdict.pick
    figures = _figures(report, limit)
    about = {"model": report.model, "data": report.data, "machine": report.environment}
    about |= {"measurement": _conditions(report.conditions)} if report.conditions else {}
    return {
        "report": report,
        "limit": limit,
        "pick": pick,
        "title": f"{_name_of(report.model)} on {_name_of(report.data)}",
        "metric": _metric_name(report),
        "results": _results(pick, limit) if pick else [],
        "costs": _costs(pick, report.teacher, limit, report.verdict.against_teacher) if pick and report.teacher else [],
        "steps": step_cards(report),
        "step_limits": step_limits(report),
        "changes": changes_view(report.changes) if report.changes else None,
        "unchanged": _NO_CHANGES if _lacks_changes(report) else "",
        "lead_figures": [figure for figure in figures if figure.name == _LEAD],
        "figures": [figure for figure in figures if figure.name != _LEAD],
        "rows": [_row(candidate, report, limit) for candidate in _ordered(report)],
        "ledgers": [candidate for candidate in _ordered(report) if candidate.stages],
        "about": [(name, facts(described)) for name, described in about.items()],
        "unstable": "; ".join(report.conditions.get("reasons", [])),
        "devices": [_device_view(device, report, limit) for device in report.devices],
    }


def _lacks_changes(report: Report) -> bool:
    """Whether a reader may look for changes that are not there: another pick than the teacher, and none told."""
    pick, teacher = report.verdict.pick, report.teacher
    return bool(pick and teacher) and pick != teacher and report.changes is None


def _conditions(conditions: Mapping[str, Any]) -> dict[str, str]:
    """How calm the machine was, as the page says it."""
    return {
        "reference": conditions["reference"],
        "calm": "yes" if conditions["stable"] else "no, unstable: " + "; ".join(conditions["reasons"]),
        "drift of the reference": f"{conditions['drift']:.1%}",
        "stolen by the host": f"{conditions['steal']:.1%} of the CPU time",
        "other programs": f"{conditions['background']:.1%} of the CPU time",
        "throttled": f"{conditions['throttled']} times",
        "sharing small work": _sharing(conditions.get("sharing")),
    }


def _sharing(cost: float | None) -> str:
    if cost is None:
        return "not measured"
    return f"{cost:.2f} times the duration on one thread" if cost else "one thread shares nothing"


@dataclass(frozen=True)
class DeviceView:
    """Another machine as the page shows it: what it is, whether it was calm, its verdict, its candidates."""

    name: str
    machine: str
    unstable: str
    verdict: str
    rows: Sequence[Row]


def _device_view(device: Elsewhere, report: Report, limit: Terms) -> DeviceView:
    facts, pick = device.environment, device.verdict.pick
    there = dataclasses.replace(report, verdict=device.verdict)
    latency = plots.spread(pick.latency, limit.percentile) if pick else None
    speed = f", {limit.percentile} {ms(latency[0])} ms ({span(latency[1:])})" if latency else ""
    return DeviceView(
        name=device.name,
        machine=f"{facts.get('cpu', 'unknown CPU')}, {facts.get('threads', '?')} threads, {facts.get('system', '')}",
        unstable="; ".join(device.conditions.get("reasons", [])),
        verdict=f"{full(pick)}{speed}" if pick else "nothing fits",
        rows=[_row(candidate, there, limit) for candidate in device.candidates],
    )


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


def _results(pick: Candidate, limit: Terms) -> list[str]:
    """What the pick reached, clause by clause."""
    clauses = []
    if pick.test:
        clauses.append(f"{score_words(pick.test)} ({metric_span(pick.test)})")
    percentile = limit.percentile if plots.spread(pick.latency, limit.percentile) else "p50"
    latency = plots.spread(pick.latency, percentile)
    if latency:
        clauses.append(f"{percentile} {ms(latency[0])} ms ({span(latency[1:])})")
    return [*clauses, f"{mb(pick.bytes)} MB"]


def _costs(pick: Candidate, teacher: Candidate, limit: Terms, paired: Metric | None) -> list[Card]:
    """The pick against the full-depth fp32 teacher; what was not measured on both is left out."""
    costs = []
    if pick.test and teacher.test:
        change = 100 * (pick.test.value - teacher.test.value)
        values = f"{score(pick.test)} against {score(teacher.test)} {unit(teacher.test)}"
        if paired is not None:
            values += f"; 95 % of paired resamples {signed(100 * paired.low)} to {signed(100 * paired.high)}"
        costs.append(Card("quality", f"{signed(change)} points", values))
    percentile = limit.percentile if plots.spread(teacher.latency, limit.percentile) else "p50"
    ours, theirs = plots.spread(pick.latency, percentile), plots.spread(teacher.latency, percentile)
    if ours and theirs:
        values = f"{percentile} {ms(ours[0])} against {ms(theirs[0])} ms"
        costs.append(Card("speed", f"{theirs[0] / ours[0]:.1f}× as fast", values))
    if pick.bytes and teacher.bytes:
        values = f"{mb(pick.bytes)} against {mb(teacher.bytes)} MB"
        ratio = teacher.bytes / pick.bytes
        costs.append(Card("size", f"{ratio:.1f}× smaller" if ratio >= 1 else f"{1 / ratio:.1f}× larger", values))
    return costs


def _row(candidate: Candidate, report: Report, limit: Terms) -> Row:
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


def _misses(candidate: Candidate, teacher: Candidate | None, limit: Terms) -> list[str]:
    """By how much a candidate misses the budget, in words: nothing where it fits."""
    misses = (
        [_miss(candidate, each) for each in limit.budget.limits if not each.fits(candidate)] if limit.budget else []
    )
    lost = points_lost(candidate, teacher)
    if limit.max_drop is not None and lost is not None and lost > limit.max_drop:
        misses.append(f"{lost:.1f} points below the teacher on dev")
    return misses


def _miss(candidate: Candidate, limit: Limit) -> str:
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


def _figures(report: Report, limit: Terms) -> list[Figure]:
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
    picked = next((point for point in best if scene.is_pick(point[0])), None)
    if picked is not None:
        return f"{start} The pick is {_point(picked)}."
    if scene.pick:
        return f"{start} The pick, {short(scene.pick)}, is not: dev chose it, and this is test."
    return f"{start} It runs from {_point(best[0])} to {_point(best[-1])}." if len(best) > 1 else start


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


# What is said of model, data and machine


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
        "percent": percent,
        "score": score,
        "sentence": sentence,
        "signed": signed,
        "together": together,
    }
    templates.globals |= {
        "spread": plots.spread,
        "span": span,
        "points_span": points_span,
        "flip_sentence": flip_sentence,
        "gap_width": GAP_WIDTH,
    }
    return templates
