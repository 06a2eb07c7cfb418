"""Resizing: which layers and tokens of a checkpoint stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgebert import stage
from edgebert.artifact import Artifact
from edgebert.building.places import check_output
from edgebert.errors import UsageError
from edgebert.judging.evaluate import texts_of
from edgebert.shaping import sizes
from edgebert.shaping.checkpoint import open_checkpoint, shape_of
from edgebert.shaping.depth import KEEP_AUTO, KEEP_FIRST, TruncateConfig, check_keep, layers_to_keep, truncate
from edgebert.shaping.vocab import PruneConfig, prune_vocab
from edgebert.training.data import Data, read

if TYPE_CHECKING:
    from edgebert.training.importance import Importance


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
    others = data.dev if data.test_is_dev else (*data.dev, *data.test)
    build = partial(prune_vocab, texts=texts_of(data.train), others=texts_of(others))
    return stage.run("prune-vocab", build, source, PruneConfig(data.digest), out, force=force)


def resize(
    model: str,
    out: str | Path,
    layers: int | None = None,
    *,
    keep: str = KEEP_FIRST,
    data: str | Path | None = None,
    prune: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    force: bool = False,
    tell: Callable[[Importance], None] | None = None,
) -> Artifact:
    """A checkpoint with fewer layers, or with the tokens that the data ``prune`` needs, or both, at ``out``.

    ``keep`` and ``tell`` are :func:`kept_layers`', which may measure on ``data``. Raises UsageError where neither is
    asked for, for layers that do not exist and for an ``out`` that does.
    """
    source, out = open_checkpoint(model), Path(out)
    check_output(source, out)
    if layers is None and prune is None:
        raise UsageError("nothing to change", "edgebert resize", "give --layers, --prune-vocab or both")
    depth = source.manifest.architecture.layers
    rows = None if data is None else read(data, columns)
    (kept,) = kept_layers(source, [depth if layers is None else layers], keep, rows, tell=tell)
    tokens = None if prune is None else read(prune, columns)
    needed = sizes.weight_bytes(sizes.with_layers(shape_of(source), len(kept)))["fp32"]
    stage.require_space(out, needed if tokens is None else 2 * needed, "resize")
    if tokens is None:
        return stage.run("truncate", truncate, source, TruncateConfig(kept), out, force=force)
    if kept == tuple(range(depth)):
        return pruned(source, tokens, out, force=force)
    with stage.scratch(out) as work:
        shallow = stage.run("truncate", truncate, source, TruncateConfig(kept), work / "shallow")
        return pruned(shallow, tokens, out, force=force)
