"""``edgebert report``: write the report again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgebert.choosing.budget import Budget
from edgebert.cli import Document, command
from edgebert.cli.pick import document_of, show


@command("edgebert report edgebert-out", show)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def run(folder: Path) -> Document:
    """Write report.html, report.md and report.json of a fit again, from its measurements."""
    from edgebert.choosing.journal import Journal
    from edgebert.choosing.report import write_report
    from edgebert.choosing.sweep import report_of

    journal = Journal(folder)
    told: dict[str, Any] = journal.facts().get("report", {}).get("budget", {})
    limit = Budget(told["quantity"], told["limit_ms"]) if told.get("quantity") else None
    report = report_of(journal, limit, told.get("max_drop"))
    return document_of(report, folder, str(write_report(folder, report)))
