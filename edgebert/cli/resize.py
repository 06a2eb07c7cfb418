"""``edgebert resize``: a checkpoint with other layers, widths or tokens, as a plain Hugging Face folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgebert import build
from edgebert.cli import Document, command, flags
from edgebert.cli.export import entry_of, vocabulary
from edgebert.cli.keeping import Told

if TYPE_CHECKING:
    from edgebert.building.resizing import Init


def _show(document: Document) -> str:
    lines = [
        f"{entry['layers']} layers of {entry['hidden']} with {entry['heads']} heads and ffn {entry['ffn']}, "
        f"{entry['bytes'] / 1e6:.1f} MB"
        for entry in document["artifacts"]
    ]
    told = (line for entry in document["artifacts"] for of in (vocabulary, _width) for line in of(entry))
    return "\n".join([*told, *lines])


def _width(entry: Document) -> Iterator[str]:
    """What other widths changed, in a sentence; nothing where they are the same."""
    if (found := entry["checks"].get("width")) is None:
        return
    kind = "exact" if found["exact"] else "not exact, train it next"
    agreement = found["label_agreement"]
    agree = "" if agreement is None else f", decisions {agreement:.1%} the same"
    yield (
        f"width: {kind}; {found['compared']} on {found['texts_from']} differ by {found['max_abs_error']:.1e} at most, "
        f"{found['mean_abs_error']:.1e} on average, cosine {found['cosine']:.6f}{agree}"
    )


@command("edgebert resize --model minilm --layers 3 --ffn 2304 -o minilm-3-wide", _show)
@flags.model
@click.option("--layers", type=int, default=None, help="How many layers to keep [default: all].")
@flags.keep("first")
@click.option("--hidden", type=flags.count(), default=None, help="Hidden width: wider by copies, narrower by --data.")
@click.option("--heads", type=flags.count(), default=None, help="Heads [default: as many as --hidden has room for].")
@click.option("--ffn", type=flags.count(), default=None, help="Feed-forward size: wider by copies, narrower by --data.")
@click.option(
    "--init",
    type=click.Choice(["pretrained", "scratch"]),
    default="pretrained",
    help="Keep the weights that can be kept, or make a fresh model of any shape.",
)
@flags.data()
@click.option(
    "--rounds",
    type=flags.count(),
    default=build.ROUNDS,
    help="Rounds of measuring and cutting where the result is narrower.",
)
@flags.prune
@flags.seed
@flags.out("Folder of the new checkpoint.", required=True)
@flags.force
def run(
    model: str,
    layers: int | None,
    keep: str,
    hidden: int | None,
    heads: int | None,
    ffn: int | None,
    init: Init,
    data: str | None,
    rounds: int,
    prune_vocab: str | None,
    seed: int,
    columns: dict[str, str],
    out: Path,
    force: bool,
) -> Document:
    """Write a checkpoint of another shape: fewer layers or tokens, wider or narrower.

    A feed-forward layer of any size, and hidden states times a whole number, are exact; between whole numbers
    hidden states are not, and what changed is told. Narrower loses what matters least on --data.
    """
    told = Told()
    asked = build.Asked(hidden, heads, ffn)
    made = build.resize(
        model, out, layers, asked=asked, init=init, keep=keep, data=data, prune=prune_vocab, columns=columns,
        rounds=rounds, seed=seed, force=force, tell=told,
    )  # fmt: skip
    shape = made.manifest.architecture
    widths = {"hidden": shape.hidden, "heads": shape.heads, "ffn": shape.ffn}
    return {"artifacts": [{**entry_of(made), **widths}], **told.document}
