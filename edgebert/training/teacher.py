"""What the teacher makes of every row: computed once and kept where memory allows, else in every step."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from edgebert import machine, ranks
from edgebert.artifact import Pooling
from edgebert.families import FAMILIES, Family
from edgebert.progress import bar
from edgebert.training.batches import Collator
from edgebert.training.clock import SECONDS_BETWEEN_LINES
from edgebert.training.objectives.base import Outputs
from edgebert.training.objectives.losses import NO_TOKEN
from edgebert.training.objectives.task import pool
from edgebert.training.processes import wait

log = logging.getLogger("edgebert")
Inputs = Mapping[str, Tensor]
_BATCH = 32
_CHUNK_ROWS = 16 * _BATCH
_MOST_BYTES = 2 * 1024**3


def forward(
    module: torch.nn.Module, inputs: Inputs, pooling: Pooling | None, *, hidden: bool, attention: int | None = None
) -> Outputs:
    """Run a transformers model; a sentence encoder (``pooling`` given) is pooled, any other has logits.

    ``attention`` is the layer whose queries, keys and values are wanted, counted from 0.
    """
    # Student and teacher get the same batch, and may be of families that read different inputs.
    fed = {name: inputs[name] for name in family_in(module).inputs if name in inputs}
    with _attention_of(module, attention) as seen:
        found = module(**fed, output_hidden_states=hidden)
    states = tuple(state.float() for state in found.hidden_states) if hidden else ()
    made = tuple(vectors.float() for vectors in seen)
    if pooling is None:
        return Outputs(logits=_logits(found, inputs["attention_mask"]), hidden=states, attention=made)
    pooled = pool(found.last_hidden_state.float(), inputs["attention_mask"], pooling.mode, normalize=pooling.normalize)
    return Outputs(hidden=states, pooled=pooled, attention=made)


def family_in(module: torch.nn.Module) -> Family:
    """The family of a transformers model, also of one that is wrapped for several processes."""
    inner: Any = getattr(module, "module", module)
    return FAMILIES[str(inner.config.model_type)]


@contextmanager
def _attention_of(module: torch.nn.Module, layer: int | None) -> Iterator[list[Tensor]]:
    """Queries, keys and values that a layer makes while the block runs, in this order."""
    family, seen = family_in(module), []
    place = f"{family.layer_prefix}{layer}."
    makers = [
        part
        for name, part in module.named_modules()
        if layer is not None and place in f"{name}." and getattr(family.part(name), "makes", None) == "heads"
    ]
    hooks = [maker.register_forward_hook(lambda _, __, made: seen.append(made)) for maker in makers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _logits(found: Mapping[str, Tensor], mask: Tensor) -> Tensor:
    """The only logits, or those of first and last tokens of answers side by side, out of reach where there is none."""
    if "logits" in found:
        return found["logits"].float()
    places = torch.stack([found["start_logits"], found["end_logits"]], dim=-1).float()
    return places.masked_fill(mask[:, :, None] == 0, NO_TOKEN)


class Targets(Protocol):
    """The teacher's outputs for a batch of the :class:`Collator`."""

    def __call__(self, inputs: Inputs) -> Outputs:
        """Logits or sentence vectors, and the hidden states asked for."""


def no_targets(inputs: Inputs) -> Outputs:
    """Training without a teacher."""
    return Outputs()


@dataclass(frozen=True)
class LiveTargets:
    """Runs the teacher on the batch. ``states`` are the hidden states asked for, by index (0: embeddings).

    ``by_token``: its logits are of tokens, [batch, sequence, labels]. ``attention``: the layer whose queries, keys
    and values are asked for.
    """

    module: torch.nn.Module
    pooling: Pooling | None
    states: tuple[int, ...]
    bf16: bool
    by_token: bool = False
    attention: int | None = None

    def __call__(self, inputs: Inputs) -> Outputs:
        """Run the teacher, without gradients."""
        device = inputs["input_ids"].device.type
        with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16, enabled=self.bf16):
            found = forward(self.module, inputs, self.pooling, hidden=bool(self.states), attention=self.attention)
        hidden = tuple(found.hidden[state] for state in self.states)
        return Outputs(found.logits, hidden, found.pooled, found.attention)


@dataclass(frozen=True)
class _Kept:
    """One row: its logits (of a tagger [tokens, labels]) or sentence vector, and ``inner`` [states, tokens, width]
    in float16: the hidden states that were asked for, then queries, keys and values.
    """

    answer: Tensor
    inner: Tensor


@dataclass(frozen=True)
class KeptTargets:
    """Looks up what was computed before, padded to the batch's length."""

    rows: Mapping[int, _Kept]
    pooled: bool
    states: int

    def __call__(self, inputs: Inputs) -> Outputs:
        """Look the batch's rows up."""
        ids = inputs["input_ids"]
        kept = [self.rows[index] for index in inputs["rows"].tolist()]
        # Of a tagger, as many rows as there are tokens.
        answers = pad_sequence([row.answer for row in kept], batch_first=True, padding_value=NO_TOKEN).to(ids.device)
        count, _, width = kept[0].inner.shape
        padded = torch.zeros(count, len(kept), ids.shape[1], width)
        for place, row in enumerate(kept):
            padded[:, place, : row.inner.shape[1]] = row.inner
        inner = padded.to(ids.device).unbind()
        logits, pooled = (None, answers) if self.pooled else (answers, None)
        return Outputs(logits, inner[: self.states], pooled, inner[self.states :])


def may_keep(size: int) -> bool:
    """Whether so many bytes of hidden states may be kept: 2 GB at most, an eighth of memory at most."""
    return size <= min(_MOST_BYTES, machine.memory_bytes() // 8)


def keep(
    targets: LiveTargets,
    collate: Collator,
    indices: Sequence[int],
    folder: Path,
    place: Callable[[Inputs], Inputs],
) -> KeptTargets:
    """Run the teacher once over the rows ``indices``, shortest first, chunk by chunk, each in one of the processes.

    Each chunk is a file in ``folder``, so that an interrupted run goes on where it stopped and a
    resumed one sees the same numbers. ``place`` moves inputs to the teacher's device.
    """
    order = sorted(indices, key=lambda index: (len(collate.rows[index].ids), index))
    chunks = [order[start : start + _CHUNK_ROWS] for start in range(0, len(order), _CHUNK_ROWS)]
    paths = [folder / f"teacher-{number:05}.safetensors" for number in range(len(chunks))]
    spoke = time.monotonic()
    for number, (path, chunk) in enumerate(bar(list(zip(paths, chunks, strict=True)), "teacher")):
        if time.monotonic() - spoke >= SECONDS_BETWEEN_LINES and not sys.stderr.isatty():
            log.info("teacher: %d of %d texts", number * _CHUNK_ROWS, len(order))
            spoke = time.monotonic()
        if number % ranks.count() == ranks.rank() and _load(path) is None:
            _store(path, _compute(targets, collate, chunk, place))
    wait()
    rows: dict[int, _Kept] = {}
    for path, chunk in zip(paths, chunks, strict=True):
        tensors = load_file(path)
        lengths = [len(collate.rows[index].ids) for index in chunk]
        inner = torch.split(tensors["inner"], lengths, dim=1)
        answers = torch.split(tensors["answers"], lengths) if targets.by_token else tensors["answers"].unbind()
        rows |= {index: _Kept(answers[i], inner[i]) for i, index in enumerate(chunk)}
    return KeptTargets(rows, targets.pooling is not None, len(targets.states))


def _compute(
    targets: LiveTargets, collate: Collator, chunk: Sequence[int], place: Callable[[Inputs], Inputs]
) -> dict[str, Tensor]:
    """``answers`` [rows, width], of a tagger [all tokens, labels], and ``inner`` [states, all tokens, width]."""
    answers: list[Tensor] = []
    inner: list[Tensor] = []
    for start in range(0, len(chunk), _BATCH):
        inputs = place(collate(chunk[start : start + _BATCH]))
        found = targets(inputs)
        answer = found.logits if found.pooled is None else found.pooled
        if answer is not None:
            answers.append((answer[inputs["attention_mask"].bool()] if targets.by_token else answer).cpu())
        if states := (*found.hidden, *found.attention):
            # LayerNorm's outputs, and what one Linear makes of them, are far inside float16's range; its rounding is
            # far below a student's error.
            inner.append(torch.stack(states)[:, inputs["attention_mask"].bool()].half().cpu())
    kept = torch.cat(inner, dim=1) if inner else torch.zeros(0, sum(len(collate.rows[i].ids) for i in chunk), 0)
    return {"answers": torch.cat(answers), "inner": kept}


def _load(path: Path) -> dict[str, Tensor] | None:
    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError):
        return None


def _store(path: Path, tensors: dict[str, Tensor]) -> None:
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary)
    os.replace(temporary, path)
