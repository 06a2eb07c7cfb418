"""``edgebert export``: a checkpoint to verified artifacts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from edgebert.artifact import Artifact
from edgebert.cli import Document, command, flags, table
from edgebert.cli.keeping import Told
from edgebert.exporters.signature import OPSET, OPSETS
from edgebert.profiles import EngineRequest, Profile
from edgebert.tasks import TASKS


def _show(document: Document) -> str:
    if "artifacts" not in document:
        return "parity failed; the ledger: " + ", ".join(line["name"] for line in document["stages"])
    rows = [
        (
            str(entry["layers"]), _precision(entry), entry["target"], f"{entry['bytes'] / 1e6:.1f}",
            f"{entry['checks']['parity'][-1]['max_abs_error']:.1e}" if entry["checks"]["parity"] else "",
            f"{entry['checks']['parity'][-1]['cosine']:.6f}" if entry["checks"]["parity"] else "",
        )
        for entry in document["artifacts"]
    ]  # fmt: skip
    costs = {words for entry in document["artifacts"] for words in vocabulary(entry)}
    return "\n".join([*sorted(costs), _table(rows)])


def _precision(entry: Document) -> str:
    """The precision, and the scheme where there was a choice of some."""
    chosen = [trial["precision"] for trial in entry["checks"].get("schemes", ()) if trial["chosen"]]
    return " = ".join([entry["precision"], *chosen])


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    return table(("layers", "precision", "target", "MB", "max error", "cosine"), rows)


def vocabulary(entry: Document) -> Iterator[str]:
    """What pruning the vocabulary did, in a sentence; nothing where it was not pruned."""
    if (found := entry["checks"].get("vocab")) is None:
        return
    sizes = f"{found['bytes_before'] / 1e6:.1f} to {found['bytes_after'] / 1e6:.1f} MB"
    line = f"vocabulary: {found['tokens_before']} to {found['tokens_after']} tokens, weights {sizes}"
    if found["texts"]:
        unknown = f"unknown tokens {found['unknown_before']:.2%} to {found['unknown_after']:.2%}"
        line += f"; of {found['texts']} other texts {found['changed']:.1%} are read as other tokens, {unknown}"
    yield line


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
@flags.keep("first")
@flags.targets("cpu")
@flags.precisions("fp32")
@flags.data()
@click.option("--task", default="auto", help=f"auto (the checkpoint's own), or {', '.join(TASKS)}.")
@click.option(
    "--fixed",
    type=flags.SIZES,
    default=None,
    help="Make the graph of one shape, such as 1x128 (texts x tokens) [default: any].",
)
@click.option("--opset", type=click.IntRange(OPSETS[0], OPSETS[-1]), default=OPSET, help="ONNX operator set.")
@click.option("--packed", is_flag=True, help="Leave the padding inside of batches out (target cuda, fp32 or fp16).")
@flags.engines
@flags.quant_drop
@flags.prune
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
    fixed: tuple[int, int] | None,
    opset: int,
    packed: bool,
    compute_capability: tuple[str, ...],
    profile: Profile | None,
    cache_dir: Path | None,
    quant_drop: float,
    prune_vocab: str | None,
    out: Path,
    force: bool,
) -> Document:
    """Export a checkpoint at one or several depths and precisions, from one trace, each verified."""
    from edgebert import build

    told = Told()
    artifacts = build.export(
        model, layers, target, precision, out,
        keep=keep, data=data, columns=columns, task=task, prune=prune_vocab, opset=opset, fixed=fixed,
        quant_drop=quant_drop, engine=EngineRequest(compute_capability, profile, cache_dir), packing=packed,
        force=force, tell=told,
    )  # fmt: skip
    return {"artifacts": [entry_of(artifact) for artifact in artifacts], **told.document}
