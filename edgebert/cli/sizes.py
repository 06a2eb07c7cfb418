"""``edgebert sizes``: parameters, FLOPs and bytes of a shape at every depth."""

from __future__ import annotations

import click

from edgebert.cli import Document, command, flags, table
from edgebert.errors import UsageError
from edgebert.shaping import sizes
from edgebert.shaping.checkpoint import open_checkpoint, shape_of


def _show(document: Document) -> str:
    rows = [
        (
            str(s["layers"]), str(s["hidden"]), str(s["heads"]), str(s["ffn"]), f"{s['params']:,}",
            f"{s['flops_per_token'] / 1e6:.1f}", *(f"{s['bytes'][p] / 1e6:.1f}" for p in ("fp32", "fp16", "int8")),
        )
        for s in document["shapes"]
    ]  # fmt: skip
    heads = ("layers", "hidden", "heads", "ffn", "parameters", "MFLOP/token", "fp32 MB", "fp16 MB", "int8 MB")
    return f"{document['model']}\n" + table(heads, rows)


@command("edgebert sizes --model minilm --layers 1,3,6", _show)
@flags.model
@flags.layers("Depths to list [default: all].")
@click.option("--seq-len", type=flags.count(), default=128, help="Tokens per text, for the FLOPs of attention.")
def run(model: str, layers: tuple[int, ...] | None, seq_len: int) -> Document:
    """List parameters (exact), FLOPs per token and bytes of a model at every depth."""
    source = open_checkpoint(model)
    full = shape_of(source)
    if bad := [count for count in layers or () if count < 1]:
        raise UsageError(f"a model of {bad[0]} layers", "--layers", "numbers from 1 up")
    return {
        "model": source.manifest.name,
        "shapes": [_entry(sizes.with_layers(full, count), seq_len) for count in layers or range(1, full.layers + 1)],
    }


def _entry(shape: sizes.Shape, seq_len: int) -> Document:
    return {
        "layers": shape.layers, "hidden": shape.hidden, "heads": shape.heads, "ffn": shape.ffn, "vocab": shape.vocab,
        "params": sizes.parameters(shape), "flops_per_token": sizes.flops_per_token(shape, seq_len),
        "bytes": sizes.weight_bytes(shape),
    }  # fmt: skip
