"""From what a sweep folder remembers to a report: for its own machine, or for others. Nothing is measured here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgebert.choosing.budget import Budget
from edgebert.choosing.candidate import Candidate, Elsewhere, Report, Step
from edgebert.choosing.changes import Changes, changes_between
from edgebert.choosing.devices import Device, read_device, slowest
from edgebert.choosing.journal import Journal
from edgebert.choosing.pick import Key, choose
from edgebert.choosing.steps import Clock, next_steps
from edgebert.errors import InputError
from edgebert.judging.metrics import Metric, Scores, difference
from edgebert.judging.rounds import depth_line


def budget_facts(budget: Budget | None, max_drop: float | None) -> dict[str, Any]:
    """A budget as the report reads it."""
    return {"limits": budget.to_list() if budget else [], "max_drop": max_drop}


@dataclass(frozen=True)
class _Told:
    """What a sweep folder remembers of a finished fit."""

    facts: dict[str, Any]
    judged: tuple[Candidate, ...]
    untrained: tuple[Candidate, ...]
    teacher: Candidate | None
    scores: dict[Key, Scores]


def _told(journal: Journal) -> _Told:
    facts = journal.facts()
    if "report" not in facts:
        raise InputError("this fit has not finished", str(journal.folder), "run the same edgebert fit again")
    offered = {tuple(key) for key in facts["offered"]}
    trained = journal.candidates(trained=True)
    judged = tuple(c for c in trained if c.key in offered)
    done = {c.key for c in judged}
    untrained = tuple(c for c in journal.candidates(trained=False) if c.key in offered - done)
    teacher = next((c for c in trained if c.key == tuple(facts["teacher"])), None)
    scores = {c.key: s for c in judged if (s := journal.scores(c)) is not None}
    return _Told(facts, judged, untrained, teacher, scores)


def report_of(journal: Journal, budget: Budget | None, max_drop: float | None, benches: Sequence[Path] = ()) -> Report:
    """The report that a sweep folder's measurements give for a budget, without measuring anything.

    ``benches`` are files that ``edgebert bench --json`` wrote on other machines, shown beside it. Raises
    InputError where the folder holds no finished measurements, or a file is about other artifacts.
    """
    told = _told(journal)
    return _report(told, journal, budget, max_drop, _devices(told, benches))


def _report(
    told: _Told, journal: Journal, budget: Budget | None, max_drop: float | None, devices: Sequence[Device]
) -> Report:
    facts, measured = told.facts["report"], told.facts.get("runs", {}).get(_run_shown(told), {})
    conditions = measured.get("conditions", {})
    candidates = tuple(sorted([*told.judged, *told.untrained], key=lambda c: c.key))
    report = Report(
        command=facts["command"], created=facts["created"], task=facts["task"], model=facts["model"],
        data=facts["data"], budget=budget_facts(budget, max_drop), teacher=told.teacher, candidates=candidates,
        verdict=choose(candidates, told.scores, told.teacher, budget, max_drop),
        depth_lines=depth_lines(told.judged, journal.candidates(trained=False)),
        environment=measured.get("environment", {}),
        warnings=(*_unstable(conditions), *facts["warnings"]), conditions=conditions,
        devices=tuple(_elsewhere(told, device, budget, max_drop) for device in devices),
    )  # fmt: skip
    return _explained(report, journal, budget)


def _devices(told: _Told, benches: Sequence[Path]) -> list[Device]:
    return [read_device(path, told.judged, told.facts["inputs"]["bench"]) for path in benches]


def _run_shown(told: _Told) -> str:
    """The measurement that decides: that of the trained candidates, or of the untrained where none was trained."""
    return next((c.latency.run for c in (*told.judged, *told.untrained) if c.latency and not c.failed), "")


def _elsewhere(told: _Told, device: Device, budget: Budget | None, max_drop: float | None) -> Elsewhere:
    candidates = device.measured(told.judged)
    verdict = choose(candidates, told.scores, told.teacher, budget, max_drop)
    return Elsewhere(device.name, device.environment, device.conditions, candidates, verdict)


def pick_elsewhere(journal: Journal, budget: Budget | None, max_drop: float | None, benches: Sequence[Path]) -> Report:
    """The report in which other machines decide: the pick fits on all of those that ``benches`` are from.

    Raises InputError as :func:`report_of` does.
    """
    told = _told(journal)
    devices = _devices(told, benches)
    report = _report(told, journal, budget, max_drop, devices)
    candidates = slowest(told.judged, devices, budget)
    restless = tuple(f"{d.name}: {text}" for d in devices for text in _unstable(d.conditions))
    # The one that is least to be trusted stands for all.
    doubtful = min(devices, key=lambda d: bool(d.conditions.get("stable")))
    decided = replace(
        report,
        candidates=candidates,
        conditions=doubtful.conditions,
        environment=doubtful.environment,
        verdict=choose(candidates, told.scores, told.teacher, budget, max_drop),
        warnings=(*restless, *told.facts["report"]["warnings"]),
    )
    return _explained(decided, journal, budget)


def _unstable(conditions: Mapping[str, Any]) -> tuple[str, ...]:
    reasons = conditions.get("reasons", [])
    return (f"the machine was unstable while latencies were measured: {'; '.join(reasons)}",) if reasons else ()


def _explained(report: Report, journal: Journal, budget: Budget | None) -> Report:
    """The report with what its pick costs against the teacher, and what a step away from it would."""
    pick, teacher = report.verdict.pick, report.teacher
    return replace(
        report,
        verdict=replace(report.verdict, against_teacher=_against_teacher(journal, pick, teacher)),
        steps=_steps(journal, report.candidates, pick, budget) if pick else (),
        changes=_changes(journal, pick, teacher) if pick and teacher else None,
    )


def _steps(
    journal: Journal, candidates: Sequence[Candidate], pick: Candidate, budget: Budget | None
) -> tuple[Step, ...]:
    scores = {c.key: s for c in candidates if c.trained and (s := journal.scores(c, "test")) is not None}
    limit = budget.latency if budget else None
    clock = Clock(limit.quantity, limit.most) if limit else Clock("p50", None)
    return next_steps(candidates, pick, scores, clock)


def _changes(journal: Journal, pick: Candidate, teacher: Candidate) -> Changes | None:
    """What the pick answers otherwise than the teacher; None where answers or texts were not kept."""
    ours, theirs, rows = journal.scores(pick, "test"), journal.scores(teacher, "test"), journal.texts()
    if pick.key == teacher.key or ours is None or theirs is None or rows is None:
        return None
    if len(rows) != len(ours.rows):
        where = str(journal.folder / "scores")
        raise InputError("texts and answers of the test part differ in number", where, "run edgebert fit anew")
    return changes_between(ours, theirs, rows)


def _against_teacher(journal: Journal, pick: Candidate | None, teacher: Candidate | None) -> Metric | None:
    if pick is None or teacher is None:
        return None
    ours, theirs = journal.scores(pick, "test"), journal.scores(teacher, "test")
    return difference(ours, theirs) if ours and theirs else None


def depth_lines(judged: Sequence[Candidate], untrained: Sequence[Candidate]) -> tuple[dict[str, Any], ...]:
    """For each way the line of p50 (ms) over depth, through the depths of the run that decides where it has enough.

    The untrained were measured in another run, when the machine may have been faster or slower.
    """
    lines = []
    for target, precision in sorted({(c.target, c.precision) for c in untrained}):
        for measured in (judged, untrained):
            timed = [c for c in measured if (c.target, c.precision) == (target, precision) and c.latency]
            line = depth_line([c.layers for c in timed], [c.latency.p50 for c in timed if c.latency])
            if line is not None:
                lines.append({"target": target, "precision": precision, **dataclasses.asdict(line)})
                break
    return tuple(lines)
