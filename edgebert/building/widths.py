"""Widths: which shapes a checkpoint can be given, the stages that lead there, and what they changed, measured."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgebert import stage
from edgebert.artifact import Architecture, Artifact, Manifest
from edgebert.errors import CheckFailed, UsageError
from edgebert.judging import parity
from edgebert.serving.model import Model
from edgebert.serving.rows import Float, outputs
from edgebert.serving.tokens import TextTokenizer
from edgebert.tasks import TASKS
from edgebert.training.data import Data

Stage = tuple[str, Callable[..., Manifest], Any]
# In how many rounds units are cut, each measured anew: more keep more (TextPruner) and take longer.
ROUNDS = 8
_WIDTHS = ("hidden", "heads", "ffn")


@dataclass(frozen=True)
class Asked:
    """The numbers that were asked for; None is as the checkpoint has it, or what follows from the others."""

    hidden: int | None = None
    heads: int | None = None
    ffn: int | None = None

    @property
    def anything(self) -> bool:
        """Whether there is a width to change."""
        return self != AS_IT_IS


AS_IT_IS = Asked()


def shape_for(source: Architecture, asked: Asked, data: Data | None) -> Architecture:
    """The shape that the source's weights can be given. Heads stay as wide as they are.

    Raises UsageError for one that they cannot, saying which are near, and where there is no ``data`` to measure on
    what is to be cut.
    """
    head = source.hidden // source.heads
    heads = asked.heads if asked.hidden is None else asked.hidden // head
    heads = source.heads if heads is None else heads
    hidden = heads * head
    if (asked.hidden or hidden) != hidden or not heads:
        near = sorted({max(1, heads) * head, (heads + 1) * head})
        what = f"heads are {head} wide, and hidden {asked.hidden} is no multiple of that"
        raise UsageError(what, "--hidden", f"{' or '.join(map(str, near))}; any shape with --init scratch")
    if (asked.heads or heads) != heads:
        what = f"hidden {hidden} with {asked.heads} heads would make heads of another width than {head}"
        raise UsageError(what, "--heads", f"--heads {heads} with --hidden {hidden}; any shape with --init scratch")
    shape = replace(source, hidden=hidden, heads=heads, ffn=asked.ffn or source.ffn)
    if _least(source, shape) != source and data is None:
        remedy = "give text like yours, with the task's labels where it has some"
        raise UsageError("what is cut is what matters least on text", "--data", remedy)
    return shape


def fresh_shape(source: Architecture, asked: Asked, layers: int | None) -> Architecture:
    """The shape of a fresh model. Raises UsageError where heads do not divide its hidden states, or without layers."""
    if layers is not None and layers < 1:
        raise UsageError(f"a model of {layers} layers", "--layers", "a number from 1 up")
    hidden = asked.hidden or source.hidden
    heads = asked.heads or max(1, hidden * source.heads // source.hidden)
    if hidden % heads:
        where = "--hidden" if asked.heads is None else "--heads"
        raise UsageError(f"hidden {hidden} is no multiple of {heads} heads", where, "give both --hidden and --heads")
    return replace(source, layers=layers or source.layers, hidden=hidden, heads=heads, ffn=asked.ffn or source.ffn)


def width_stages(source: Artifact, shape: Architecture, data: Data | None, rounds: int, seed: int) -> list[Stage]:
    """The stages from a checkpoint to a shape of equal depth: rounds of narrowing on ``data``, then widening.

    The last one measures what all of them changed.
    """
    old = source.manifest.architecture
    shape = replace(shape, vocab=old.vocab)
    least = _least(old, shape)
    stages: list[Stage] = []
    if least != old and data is not None:
        stages += _narrowing(old, least, data, rounds, seed)
    if shape != least:
        from edgebert.shaping.width import WidenConfig, widen

        stages.append(("widen", widen, WidenConfig(shape.hidden, shape.heads, shape.ffn, seed)))
    exact = least == old and shape.hidden % old.hidden == 0
    *before, (name, build, config) = stages
    return [*before, (name, _measured(build, source, exact=exact), config)]


def _least(old: Architecture, new: Architecture) -> Architecture:
    """The smaller of two shapes in each width."""
    widths = {name: min(getattr(old, name), getattr(new, name)) for name in _WIDTHS}
    return replace(old, **widths)


def _narrowing(old: Architecture, least: Architecture, data: Data, rounds: int, seed: int) -> Iterator[Stage]:
    from edgebert.training.narrowing import NarrowConfig, narrow

    head, before = old.hidden // old.heads, (old.heads, old.ffn)
    for number in range(1, rounds + 1):
        heads, ffn = (
            was - (was - goes_to) * number // rounds
            for was, goes_to in ((old.heads, least.heads), (old.ffn, least.ffn))
        )
        # Few units in many rounds: some rounds have none to cut.
        if (heads, ffn) != before:
            yield "narrow", partial(narrow, data=data), NarrowConfig(heads * head, heads, ffn, data.digest, seed=seed)
        before = heads, ffn


def _measured(build: Callable[..., Manifest], before: Artifact, *, exact: bool) -> Callable[..., Manifest]:
    """A stage that also measures how its result's answers differ from those of ``before``.

    Raises CheckFailed where ``exact`` ones differ by more than rounding.
    """

    def run(source: Artifact, config: Any, out: Path) -> Manifest:
        manifest = build(source, config, out)
        line = _deviation(before, Artifact(out, replace(manifest, files=stage.hash_files(out))))
        if exact and not line.ok:
            what = f"widening changed answers by {line.max_abs_error:.1e} (allowed {line.tolerance:.1e})"
            raise CheckFailed(what, str(before.path), "report this checkpoint")
        old = before.manifest.architecture
        found = {
            "exact": exact,
            "compared": "similarities" if TASKS[manifest.task].pools else "answers",
            "texts_from": "edgebert's packaged text sample",
            **{name: getattr(line, name) for name in ("max_abs_error", "mean_abs_error", "cosine", "label_agreement")},
            "from": {name: getattr(old, name) for name in _WIDTHS},
        }
        return replace(manifest, checks={**manifest.checks, "width": found})

    return run


def _deviation(before: Artifact, after: Artifact) -> parity.Stage:
    choices = parity.choices_of(before.manifest)
    return parity.compare("width", "width", _answers(before), _answers(after), choices)


def _answers(checkpoint: Artifact) -> list[Float]:
    """What a checkpoint answers on the packaged sample; of a sentence encoder the cosines of all pairs of texts.

    Vectors of other widths cannot be compared, what they are used for can.
    """
    from edgebert.runtimes.reference import reference_session

    task = TASKS[checkpoint.manifest.task]
    session, tokenizer = reference_session(checkpoint), TextTokenizer(checkpoint)
    texts = parity.sample(task)
    if not task.pools:
        return outputs(parity.runner(session, checkpoint), parity.feeds(tokenizer, texts), task.compared)
    with Model(checkpoint, session, tokenizer) as model:
        vectors = model.encode(texts).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return list(vectors @ vectors.T)


def in_turn(source: Artifact, stages: Sequence[Stage], out: Path, *, force: bool = False) -> Artifact:
    """Run stages one after the other; only the last result is published, at ``out``."""
    *before, (name, build, config) = stages
    with stage.scratch(out) as work:
        for number, (first, make, settings) in enumerate(before):
            made = stage.run(first, make, source, settings, work / str(number))
            # One is enough: what comes next reads the latest alone.
            shutil.rmtree(work / str(number - 1), ignore_errors=True)
            source = made
        return stage.run(name, build, source, config, out, force=force)
