"""``edgebert verify``: is this artifact right, here?"""

from __future__ import annotations

from pathlib import Path

import click

from edgebert.cli import Document, command, flags, table
from edgebert.errors import CheckFailed


def _show(document: Document) -> str:
    rows = [
        (
            s["name"], f"{s['max_abs_error']:.2e}", f"{s['tolerance']:.2e}", f"{s['cosine']:.6f}",
            "-" if s["label_agreement"] is None else f"{s['label_agreement']:.1%}", "ok" if s["ok"] else "FAILED",
        )
        for s in document["stages"]
    ]  # fmt: skip
    lines = [table(("step", "max error", "tolerance", "cosine", "same label", ""), rows)]
    if metric := document["metric"]:
        lines += [_metric(found) for found in (metric, metric.get("exact_match")) if found]
    return "\n".join(lines)


def _metric(metric: Document) -> str:
    return f"{metric['name']} {metric['value']:.4f} ({metric['low']:.4f} to {metric['high']:.4f})"


@command("edgebert verify edgebert-out/best --data reviews.csv", _show)
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--reference", default=None, help="Checkpoint to compare with, of the same depth.")
@flags.data()
def run(artifact: Path, reference: str | None, data: str | None, columns: dict[str, str]) -> Document:
    """Check an artifact: hashes, golden vectors, parity with a checkpoint, the task metric."""
    from edgebert.judging.verify import document_of, verify

    stages, metric = verify(artifact, reference, data, columns)
    document = document_of(stages, metric)
    if not document["ok"]:
        bad = next(line for line in stages if not line.ok)
        what = f"{bad.name}: error {bad.max_abs_error:.3g} of {bad.tolerance:.3g}, cosine {bad.cosine:.5f}"
        raise CheckFailed(what, str(artifact), "export it again on this machine", document)
    return document
