"""``edgebert pick``: another budget, the same measurements."""

from __future__ import annotations

from pathlib import Path

import click

from edgebert.choosing.budget import check_max_drop, parse_budget
from edgebert.choosing.candidate import Candidate, Report
from edgebert.cli import Document, calm, command, flags, table
from edgebert.errors import NothingFits, UsageError


def show(document: Document) -> str:
    """The candidates as a table and the verdict in a sentence."""
    rows = [_row(c) for c in document["candidates"]]
    heads = ("layers", "precision", "target", "metric", "dev", "p50 ms", "p95 ms", "MB", "")
    lines = [table(heads, rows), ""]
    pick = document["pick"]
    if pick is None:
        lines.append(f"no pick: {document['reason']}")
        lines += [f"nearest: {_named(c)}: {c['why']}" for c in document["nearest"][:1]]
    else:
        lines.append(f"pick: {_named(pick)}: {document['reason']}")
        lines += [f"as accurate, within the noise of dev: {', '.join(document['ties'])}"] if document["ties"] else []
        lines += [f"as fast, within the noise: {', '.join(document['as_fast'])}"] if document["as_fast"] else []
    if document["conditions"]:
        lines.append(calm(document["conditions"]))
    lines += [f"{device['name']}: {calm(device['conditions'])}" for device in document.get("devices", [])]
    if document["report"]:
        lines.append(f"report: {document['report']}")
    return "\n".join(lines)


def _named(c: Document) -> str:
    return f"{c['layers']} layer{'s' * (c['layers'] > 1)} {c['precision']} on {c['target']}"


def _row(c: Document) -> tuple[str, ...]:
    def number(value: float | None, form: str = "{:.2f}") -> str:
        return "-" if value is None else form.format(value)

    latency, metric, dev = c["latency_ms"] or {}, c["metric"] or {}, c["dev"] or {}
    state = "failed" if c["failed"] else "" if c["trained"] else "not trained"
    return (
        str(c["layers"]), c["precision"], c["target"],
        number(metric.get("value"), "{:.4f}"), number(dev.get("value"), "{:.4f}"),
        number(latency.get("p50")), number(latency.get("p95")), f"{c['bytes'] / 1e6:.1f}", state,
    )  # fmt: skip


def document_of(report: Report, folder: Path, page: str | None) -> Document:
    """The JSON document of ``fit`` and ``pick``; paths are made to lead from where the command ran."""
    verdict = report.verdict
    return {
        "pick": _placed(verdict.pick, folder) if verdict.pick else None,
        "reason": verdict.reason,
        "ties": list(verdict.ties),
        "as_fast": list(verdict.as_fast),
        "conditions": dict(report.conditions),
        "warnings": list(report.warnings),
        "nearest": [{**_placed(c, folder), "why": why} for c, why in verdict.nearest],
        "candidates": [_placed(c, folder) for c in report.candidates],
        "report": page,
    }


def _placed(candidate: Candidate, folder: Path) -> Document:
    path = str(folder / candidate.path) if candidate.path else None
    return {**candidate.to_dict(), "path": path}


def require_pick(document: Document, report: Report) -> Document:
    """The document, or NothingFits with it where there is no pick."""
    if report.verdict.pick is not None:
        return document
    nearest = document["nearest"][0] if document["nearest"] else None
    where = f"nearest is {_named(nearest)}, {nearest['why']}" if nearest else "no candidate was measured"
    raise NothingFits(report.verdict.reason, where, "raise the budget, or give a smaller model", document)


@command("edgebert pick edgebert-out --budget p95=6ms --bench device.json", show)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@flags.budget
@flags.benches("Decide by measurements from other machines: what edgebert bench DIR --json wrote there.")
def run(folder: Path, budget: str | None, max_drop: float | None, bench: tuple[str, ...]) -> Document:
    """Pick again from the measurements of a fit; nothing is measured, trained or written."""
    from edgebert.choosing.journal import Journal
    from edgebert.choosing.outcome import pick_elsewhere, report_of

    if budget is None and max_drop is None:
        raise UsageError("nothing to pick by", "--budget", "give --budget p95=10ms, --max-drop 1.0, or both")
    limit = parse_budget(budget) if budget is not None else None
    check_max_drop(max_drop)
    if bench:
        report = pick_elsewhere(Journal(folder), limit, max_drop, [Path(name) for name in bench])
        return require_pick({**document_of(report, folder, None), "devices": _devices(report)}, report)
    report = report_of(Journal(folder), limit, max_drop)
    page = folder / "report.html"
    return require_pick(document_of(report, folder, str(page) if page.is_file() else None), report)


def _devices(report: Report) -> list[Document]:
    """Each device with the candidate that it would get if it were alone."""
    return [
        {
            "name": device.name, "environment": dict(device.environment), "conditions": dict(device.conditions),
            "pick": device.verdict.pick.to_dict() if device.verdict.pick else None, "reason": device.verdict.reason,
        }
        for device in report.devices
    ]  # fmt: skip
