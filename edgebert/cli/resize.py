"""``edgebert resize``: a checkpoint with fewer layers or tokens, as a plain Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import click

from edgebert import build
from edgebert.cli import Document, command, flags
from edgebert.cli.export import entry_of, vocabulary
from edgebert.cli.keeping import Told


def _show(document: Document) -> str:
    lines = [f"{entry['layers']} layers, {entry['bytes'] / 1e6:.1f} MB" for entry in document["artifacts"]]
    return "\n".join([*(line for entry in document["artifacts"] for line in vocabulary(entry)), *lines])


@command("edgebert resize --model minilm --layers 3 -o minilm-3", _show)
@flags.model
@click.option("--layers", type=int, default=None, help="How many layers to keep [default: all].")
@flags.keep
@flags.data()
@flags.prune
@flags.out("Folder of the new checkpoint.", required=True)
@flags.force
def run(
    model: str,
    layers: int | None,
    keep: str,
    data: str | None,
    prune_vocab: str | None,
    columns: dict[str, str],
    out: Path,
    force: bool,
) -> Document:
    """Write a smaller checkpoint: weights moved, config and tokenizer rewritten, head kept."""
    told = Told()
    made = build.resize(
        model, out, layers, keep=keep, data=data, prune=prune_vocab, columns=columns, force=force, tell=told
    )
    return {"artifacts": [entry_of(made)], **told.document}
