"""``edgebert package``: an artifact as another server's model repository."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from edgebert.artifact import Artifact
from edgebert.cli import Document, command, flags
from edgebert.errors import InputError, UsageError
from edgebert.files import read_plain
from edgebert.strict_json import parse_json

FORMATS = ("triton",)
_MOST_BYTES = 64_000_000
# What a larger batch must bring over all smaller ones to be preferred.
_GAIN = 1.05


def _show(document: Document) -> str:
    sizes = ", ".join(map(str, document["preferred_batch_size"])) or "none measured (--bench)"
    return f"ask {document['models'][0]}; models: {', '.join(document['models'])}; preferred batch sizes: {sizes}"


@command("edgebert package edgebert-out/best --format triton -o models", _show)
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--format", "form", default=FORMATS[0], help=f"One of {', '.join(FORMATS)}.")
@click.option("--name", default=None, help="What the model is called there [default: the artifact's folder].")
@flags.benches("What edgebert bench --json wrote of it at several batch sizes: one file or a list.")
@flags.out("Folder for the model repository.", required=True)
@flags.force
def run(artifact: Path, form: str, name: str | None, bench: tuple[str, ...], out: Path, force: bool) -> Document:
    """Write a Triton model repository: tokenization, the graph, and for encoders pooling, in one ensemble."""
    from edgebert.exporters.triton import write_repository

    if form not in FORMATS:
        raise UsageError(f"unknown format {form!r}", "--format", f"one of {', '.join(FORMATS)}")
    opened = Artifact.open(artifact)
    sizes = preferred({size: speed for path in bench for size, speed in _speeds(Path(path), opened).items()})
    found = write_repository(opened, out, name or artifact.resolve().name, sizes, force=force)
    return {"repository": str(found.path), "models": list(found.models), "preferred_batch_size": sizes}


def preferred(texts_per_s: Mapping[int, float]) -> list[int]:
    """The batch sizes that answer more texts a second, by a twentieth at least, than every smaller one."""
    best, found = 0.0, []
    for size, speed in sorted(texts_per_s.items()):
        if speed > best * _GAIN:
            found.append(size)
        best = max(best, speed)
    return [size for size in found if size > 1]


def _speeds(path: Path, artifact: Artifact) -> dict[int, float]:
    """Texts a second by batch size, of this artifact on its own target. Raises InputError where the file has none."""
    where = str(path)
    document: Any = parse_json(read_plain(path.parent, path.name, _MOST_BYTES, links=True), where)
    try:
        rows = [row for row in document["results"] if row["digest"] == artifact.digest]
        found = {
            int(row["batch_size"]): float(row["texts_per_s"])
            for row in rows
            if row["target"] == artifact.manifest.target
        }
    except (KeyError, TypeError, ValueError) as error:
        again = "write it again with edgebert bench ARTIFACT --json"
        raise InputError(f"not measurements of edgebert bench ({error!r})", where, again) from None
    if not found:
        raise InputError("it does not measure this artifact", where, "run edgebert bench on this very folder")
    return found
