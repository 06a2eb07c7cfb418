"""``edgebert resize``: a checkpoint with fewer layers, as a plain Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import click

from edgebert import stage
from edgebert.build import check_output, kept_layers
from edgebert.cli import Document, command, flags
from edgebert.cli.export import entry_of
from edgebert.cli.keeping import Told
from edgebert.shaping import sizes
from edgebert.shaping.checkpoint import open_checkpoint, shape_of
from edgebert.shaping.depth import TruncateConfig, truncate
from edgebert.training.data import read


def _show(document: Document) -> str:
    return "\n".join(f"{entry['layers']} layers, {entry['bytes'] / 1e6:.1f} MB" for entry in document["artifacts"])


@command("edgebert resize --model minilm --layers 3 -o minilm-3", _show)
@flags.model
@click.option("--layers", type=int, required=True, help="How many layers to keep.")
@flags.keep
@flags.data()
@flags.out("Folder of the new checkpoint.", required=True)
@flags.force
def run(
    model: str, layers: int, keep: str, data: str | None, columns: dict[str, str], out: Path, force: bool
) -> Document:
    """Write a shallower checkpoint: weights moved, config rewritten, head kept."""
    source = open_checkpoint(model)
    check_output(source, out)
    told = Told()
    rows = read(data, columns) if data is not None else None
    (kept,) = kept_layers(source, [layers], keep, rows, tell=told)
    stage.require_space(out, sizes.weight_bytes(sizes.with_layers(shape_of(source), layers))["fp32"], "resize")
    made = stage.run("truncate", truncate, source, TruncateConfig(kept), out, force=force)
    return {"artifacts": [entry_of(made)], **told.document}
