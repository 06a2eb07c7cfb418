"""``edgebert report``: write the report again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgebert.choosing.budget import Budget
from edgebert.cli import Document, command, flags
from edgebert.cli.pick import document_of, show


@command("edgebert report edgebert-out --bench device.json", show)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@flags.benches("Show measurements from other machines too: what edgebert bench DIR --json wrote there.")
def run(folder: Path, bench: tuple[str, ...]) -> Document:
    """Write report.html, report.md and report.json of a fit again, from its measurements."""
    from edgebert.choosing.journal import Journal
    from edgebert.choosing.outcome import report_of
    from edgebert.choosing.report import write_report

    journal = Journal(folder)
    told: dict[str, Any] = journal.facts().get("report", {}).get("budget", {})
    limit = Budget.from_list(told.get("limits", []))
    report = report_of(journal, limit, told.get("max_drop"), [Path(name) for name in bench])
    return document_of(report, folder, str(write_report(folder, report)))
