"""``edgebert distill``: train shallower checkpoints from a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgebert.cli import Document, command, flags
from edgebert.cli.export import entry_of
from edgebert.cli.keeping import Told


def _show(document: Document) -> str:
    lines = []
    for entry in document["artifacts"]:
        training = entry["checks"].get("training", {})
        lines.append(f"{entry['layers']} layers: dev {training.get('metric')} {training.get('value'):.4f}")
    return "\n".join(lines)


@command("edgebert distill --model my-finetuned-bert --data reviews.csv --layers 3 -o students", _show)
@flags.model
@flags.data(required=True)
@click.option("--layers", type=flags.NUMBERS, required=True, help="Depths to train, one or a list.")
@flags.keep(None)
@flags.training
@click.option(
    "--init-from",
    default=None,
    help="Checkpoint whose layers students start from [default: the model's own].",
)
@flags.seed
@flags.out("Folder for the checkpoints, each in its own subfolder; the same command goes on in it.")
def run(
    model: str,
    data: str,
    columns: dict[str, str],
    layers: tuple[int, ...],
    keep: str | None,
    init_from: str | None,
    seed: int,
    out: Path,
    **training: Any,
) -> Document:
    """Train one or several depths from a teacher (--method none: without one)."""
    from edgebert import build
    from edgebert.training.plan import TrainConfig

    given = {name: value for name, value in training.items() if value is not None}
    config = TrainConfig(seed=seed, **given)
    told = Told()
    students = build.distill(
        model, data, layers, out, config, keep=keep, init_from=init_from, columns=columns, tell=told
    )
    return {"artifacts": [entry_of(student) for student in students], **told.document}
