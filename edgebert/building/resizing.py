"""Resizing: which layers, widths and tokens a checkpoint is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgebert import stage
from edgebert.artifact import Architecture, Artifact
from edgebert.building.places import check_output
from edgebert.building.widths import AS_IT_IS, ROUNDS, Asked, Stage, fresh_shape, in_turn, shape_for, width_stages
from edgebert.errors import UsageError
from edgebert.judging.evaluate import texts_of
from edgebert.shaping import sizes
from edgebert.shaping.checkpoint import open_checkpoint, shape_of
from edgebert.shaping.depth import KEEP_AUTO, KEEP_FIRST, TruncateConfig, check_keep, layers_to_keep, truncate
from edgebert.shaping.vocab import PruneConfig, prune_vocab
from edgebert.training.data import Data, read

if TYPE_CHECKING:
    from edgebert.training.importance import Importance

Init = Literal["pretrained", "scratch"]


def kept_layers(
    source: Artifact,
    counts: Sequence[int],
    keep: str,
    data: Data | None,
    *,
    tuned: bool = True,
    seed: int = 0,
    tell: Callable[[Importance], None] | None = None,
) -> list[tuple[int, ...]]:
    """Which layers of a checkpoint stay at each of the depths ``counts``; ``keep`` is ``layers_to_keep``'s.

    For ``auto`` they are measured on data's train part, and ``tell`` is called with what was found; ``tuned`` False
    says that the head is fresh. Raises UsageError where depths and ``keep`` do not fit the model or data is missing.
    """
    depth, ranking = source.manifest.architecture.layers, None
    check_keep(counts, keep, depth)
    if keep == KEEP_AUTO and data is not None:
        from edgebert.training.importance import measure_importance

        found = measure_importance(source, data, tuned=tuned, seed=seed)
        ranking = found.ranking
        if tell is not None:
            tell(found)
    return [layers_to_keep(count, keep, depth, ranking) for count in counts]


def pruned(source: Artifact, data: Data, out: Path, *, force: bool = False) -> Artifact:
    """The checkpoint with the tokens that data's train part needs, published at ``out``.

    What it costs other texts is measured on the data's other parts: ``manifest.checks["vocab"]`` holds it.
    Raises InputError for a tokenizer that is neither WordPiece nor byte-level BPE.
    """
    return in_turn(source, [_pruning(data)], out, force=force)


def _pruning(data: Data) -> Stage:
    others = data.dev if data.test_is_dev else (*data.dev, *data.test)
    build = partial(prune_vocab, texts=texts_of(data.train), others=texts_of(others))
    return "prune-vocab", build, PruneConfig(data.digest)


def resize(
    model: str,
    out: str | Path,
    layers: int | None = None,
    *,
    asked: Asked = AS_IT_IS,
    init: Init = "pretrained",
    keep: str = KEEP_FIRST,
    data: str | Path | None = None,
    prune: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    rounds: int = ROUNDS,
    seed: int = 0,
    force: bool = False,
    tell: Callable[[Importance], None] | None = None,
) -> Artifact:
    """A checkpoint of another shape at ``out``: other layers, widths as ``asked``, the tokens that ``prune`` needs.

    ``init`` "scratch" makes a fresh model of any shape with the model's tokenizer and labels. Else weights are kept:
    ``keep`` and ``tell`` are :func:`kept_layers`', which may measure on ``data``; so is what goes where the result is
    narrower, in ``rounds``; a wider one is made by copying, and ``manifest.checks["width"]`` says what either
    changed. Raises UsageError where nothing is asked for, for shapes that the weights cannot be given, and for an
    ``out`` that exists.
    """
    source, out = open_checkpoint(model), Path(out)
    check_output(source, out)
    if layers is None and prune is None and not asked.anything and init == "pretrained":
        raise UsageError("nothing to change", "edgebert resize", "give --layers, a width, --prune-vocab or --init")
    old, rows = source.manifest.architecture, None if data is None else read(data, columns)
    if init == "scratch":
        shape = fresh_shape(old, asked, layers)
        stages = [_fresh(shape, seed)]
    else:
        shape = shape_for(old, asked, rows)
        (kept,) = kept_layers(source, [old.layers if layers is None else layers], keep, rows, seed=seed, tell=tell)
        shape = replace(shape, layers=len(kept))
        stages = [] if kept == tuple(range(old.layers)) else [("truncate", truncate, TruncateConfig(kept))]
    stages += [] if prune is None else [_pruning(read(prune, columns))]
    larger = max(_weights(source, old), _weights(source, shape))
    stage.require_space(out, (len(stages) + 2) * larger, "resize")
    if init == "scratch" or replace(shape, layers=old.layers) == old:
        return in_turn(source, stages or [("truncate", truncate, TruncateConfig(kept))], out, force=force)
    with stage.scratch(out) as work:
        start = in_turn(source, stages, work / "start") if stages else source
        return in_turn(start, width_stages(start, shape, rows, rounds, seed), out, force=force)


def _fresh(shape: Architecture, seed: int) -> Stage:
    from edgebert.shaping.fresh import FreshConfig, fresh

    return "fresh", fresh, FreshConfig(shape, seed)


def _weights(source: Artifact, shape: Architecture) -> int:
    """Bytes of the weights that a checkpoint of that shape has."""
    resized = replace(shape_of(source), layers=shape.layers, hidden=shape.hidden, ffn=shape.ffn)
    return sizes.weight_bytes(resized)["fp32"]
