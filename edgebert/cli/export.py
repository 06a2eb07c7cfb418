"""``edgebert export``: a checkpoint to verified artifacts."""

from __future__ import annotations

from pathlib import Path

import click

from edgebert.artifact import Artifact
from edgebert.cli import Document, command, flags, table
from edgebert.cli.keeping import Told
from edgebert.tasks import TASKS


def _show(document: Document) -> str:
    if "artifacts" not in document:
        return "parity failed; the ledger: " + ", ".join(line["name"] for line in document["stages"])
    rows = [
        (
            str(entry["layers"]), entry["precision"], entry["target"], f"{entry['bytes'] / 1e6:.1f}",
            f"{entry['checks']['parity'][-1]['max_abs_error']:.1e}" if entry["checks"]["parity"] else "",
            f"{entry['checks']['parity'][-1]['cosine']:.6f}" if entry["checks"]["parity"] else "",
        )
        for entry in document["artifacts"]
    ]  # fmt: skip
    return table(("layers", "precision", "target", "MB", "max error", "cosine"), rows)


def entry_of(artifact: Artifact) -> Document:
    """An artifact as commands report it."""
    manifest = artifact.manifest
    return {
        "path": str(artifact.path),
        "layers": manifest.architecture.layers,
        "target": manifest.target,
        "precision": manifest.precision,
        "bytes": manifest.bytes,
        "digest": artifact.digest,
        "checks": dict(manifest.checks),
    }


@command("edgebert export --layers 3 --precision int8 --data reviews.csv -o out", _show)
@flags.layers("How many layers to keep, one number or a list [default: all].")
@flags.model
@flags.keep
@flags.targets("cpu")
@flags.precisions("fp32")
@flags.data()
@click.option("--task", default="auto", help=f"auto (the checkpoint's own), or {', '.join(TASKS)}.")
@flags.out("Folder for the artifacts, each in its own subfolder.")
@flags.force
def run(
    layers: tuple[int, ...] | None,
    model: str,
    keep: str,
    target: tuple[str, ...],
    precision: tuple[str, ...],
    data: str | None,
    columns: dict[str, str],
    task: str,
    out: Path,
    force: bool,
) -> Document:
    """Export a checkpoint at one or several depths and precisions, from one trace, each verified."""
    from edgebert import build

    told = Told()
    artifacts = build.export(
        model, layers, target, precision, out, keep=keep, data=data, columns=columns, task=task, force=force, tell=told
    )
    return {"artifacts": [entry_of(artifact) for artifact in artifacts], **told.document}
