"""``edgebert sizes``: parameters, FLOPs, bytes, predicted latency: of all depths, of equal sizes, of known names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from edgebert.artifact import Artifact
from edgebert.cli import Document, calm, command, flags, table
from edgebert.errors import UsageError
from edgebert.shaping import sizes
from edgebert.shaping.checkpoint import open_checkpoint, shape_of
from edgebert.shaping.known import KNOWN, known_named
from edgebert.shaping.plans import DEPTHS, TOLERANCE, equal_sized
from edgebert.shaping.sizes import Shape
from edgebert.tasks import TASKS, Task, task_named

# What a known name is counted as where no task is named: the encoder alone.
_ENCODER = "feature-extraction"
_UNITS: Mapping[str, float] = {"": 1, "K": 1e3, "M": 1e6, "B": 1e9}
_MOST_PARAMS = 1e12


class _Params(click.ParamType[Any]):
    """``110M``."""

    name = "110M"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB]?)", str(value).upper(), re.ASCII)
        number = float(match[1]) * _UNITS[match[2]] if match else 0
        if not 1 <= number <= _MOST_PARAMS:
            self.fail(f"{value!r} is no number of parameters such as 110M or 22713216", param, ctx)
        return round(number)


def _show(document: Document) -> str:
    named = any("name" in s for s in document["shapes"])
    precisions = [*document["shapes"][0].get("latency_ms", {})] if document["shapes"] else []
    rows = [
        (
            *([s["name"]] if named else []),
            str(s["layers"]), str(s["hidden"]), str(s["heads"]), str(s["ffn"]), f"{s['params']:,}",
            f"{s['flops_per_token'] / 1e6:.1f}", *(f"{s['bytes'][p] / 1e6:.1f}" for p in ("fp32", "fp16", "int8")),
            *(f"{s['latency_ms'][p]:.2f}" for p in precisions),
        )
        for s in document["shapes"]
    ]  # fmt: skip
    heads = (
        *(["name"] if named else []), "layers", "hidden", "heads", "ffn", "parameters", "MFLOP/token",
        "fp32 MB", "fp16 MB", "int8 MB", *(f"{p} ms" for p in precisions),
    )  # fmt: skip
    lines = [document["model"] or "published encoders", table(heads, rows)]
    if "measured" in document:
        lines += ["ms: p50 of one text, predicted from two measured depths of each width"]
        lines += sorted({calm(group["conditions"]) for group in document["measured"]})
    return "\n".join(lines)


@command("edgebert sizes --params 110M --layers 6,12", _show)
@flags.model
@flags.layers("Depths to list [default: all of the model; with --params those that come to the size].")
@click.option("--params", type=_Params(), default=None, help="List shapes of this many parameters, such as 110M.")
@click.option("--known", is_flag=True, help="List the published encoders whose names are known offline.")
@click.option("--task", default="auto", help=f"The head to count: auto (the checkpoint's own), or {', '.join(TASKS)}.")
@click.option("--labels", type=flags.count(), default=2, help="Classes of a head that --task puts on.")
@click.option("--seq-len", type=flags.count(3), default=128, help="Tokens per text, for FLOPs and latency.")
@click.option("--latency", is_flag=True, help="Predict latency here: measures fresh models of two depths a width.")
@flags.precisions("fp32")
@click.option("--threads", type=flags.count(), default=None, help="Threads a call may use [default: all allowed].")
def run(
    model: str,
    layers: tuple[int, ...] | None,
    params: int | None,
    known: bool,
    task: str,
    labels: int,
    seq_len: int,
    latency: bool,
    precision: tuple[str, ...],
    threads: int | None,
) -> Document:
    """List parameters (exact), FLOPs per token and bytes: of a model at every depth, or of shapes of equal size.

    Published names such as bert-base-uncased are known without the hub, as encoders unless --task says otherwise.
    """
    if bad := [count for count in layers or () if count < 1]:
        raise UsageError(f"a model of {bad[0]} layers", "--layers", "numbers from 1 up")
    if known:
        return {"model": None, "shapes": _known(task, labels, seq_len)}
    source, name, full = _named(model, task, labels)
    if params is not None:
        shapes = equal_sized(full, params, layers or DEPTHS)
        if not shapes:
            what = f"no shape comes within {TOLERANCE:.0%} of {params:,} parameters"
            raise UsageError(what, "--params", "ask for another size, or for other --layers")
    else:
        shapes = [sizes.with_layers(full, count) for count in layers or range(1, full.layers + 1)]
    document: Document = {"model": name, "shapes": [_entry(shape, seq_len) for shape in shapes]}
    if latency:
        if source is None:
            raise UsageError("latency is measured with a checkpoint's tokenizer", name, "give --model a folder")
        _predict(document, source, shapes, precision, seq_len, threads)
    return document


def _named(model: str, task: str, labels: int) -> tuple[Artifact | None, str, Shape]:
    """A model's checkpoint (None for a name that is known), its name, its shape with the head that is asked for."""
    known = None if Path(model).is_dir() else known_named(model)
    if known is not None:
        return None, model, known.shape(_counted(task), labels)
    head = None if task == "auto" else (task_named(task), labels)
    source = open_checkpoint(model, task)
    return source, source.manifest.name, shape_of(source, head)


def _known(task: str, labels: int, seq_len: int) -> list[Document]:
    return [{"name": name, **_entry(known.shape(_counted(task), labels), seq_len)} for name, known in KNOWN.items()]


def _counted(task: str) -> Task:
    return task_named(_ENCODER if task == "auto" else task)


def _entry(shape: Shape, seq_len: int) -> Document:
    return {
        "layers": shape.layers, "hidden": shape.hidden, "heads": shape.heads, "ffn": shape.ffn, "vocab": shape.vocab,
        "params": sizes.parameters(shape), "flops_per_token": sizes.flops_per_token(shape, seq_len),
        "bytes": sizes.weight_bytes(shape),
    }  # fmt: skip


def _predict(
    document: Document,
    source: Artifact,
    shapes: Sequence[Shape],
    precisions: Sequence[str],
    seq_len: int,
    threads: int | None,
) -> None:
    """Add ``latency_ms`` by precision to every shape, and what was ``measured`` to the document."""
    from edgebert.building.predicting import predict
    from edgebert.judging.conditions import conditions_facts
    from edgebert.judging.latency import BenchConfig

    predictions = predict(source, shapes, precisions, BenchConfig(seq_len=seq_len, threads=threads))
    measured = {}
    for entry, shape, found in zip(document["shapes"], shapes, predictions, strict=True):
        entry["latency_ms"] = {name: line.at(shape.layers) for name, line in found.lines.items()}
        measured[shape.hidden, shape.ffn] = {
            "hidden": shape.hidden, "heads": shape.heads, "ffn": shape.ffn,
            "lines": {name: {"layers": line.depths, "p50_ms": line.ms} for name, line in found.lines.items()},
            "conditions": conditions_facts(found.conditions),
        }  # fmt: skip
    document["measured"] = list(measured.values())
