"""How much each layer matters, and what each depth is worth, measured on text before anything is trained.

Three measurements on the train part, all from one forward pass a batch and what can be continued from it:

- **change**: 1 − cosine of what goes into a layer and what comes out, over real tokens (Block Influence of Men et
  al. 2024, "ShortGPT", arXiv:2403.03853; Sajjad et al. 2023, arXiv:2004.03844, of [CLS] alone);
- **loss**: how much the loss grows when a layer is skipped, for a checkpoint with a fine-tuned head and labels
  (leave-one-out, as Sajjad et al. and LayerDrop's ablations judge by);
- **curve**: what the first k layers are worth as they are, for every k, the head put on each hidden state.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgebert import machine
from edgebert.artifact import Artifact, Pooling, problem_of
from edgebert.errors import InputError
from edgebert.families import FAMILIES
from edgebert.progress import bar
from edgebert.shaping.checkpoint import load_module
from edgebert.shaping.depth import encoder_of, only_layers
from edgebert.tasks import TASKS
from edgebert.training.batches import Collator, pad_id_of, tokenize
from edgebert.training.data import Data, Row, match_labels, sample_texts, single_texts
from edgebert.training.objectives.base import Outputs, required
from edgebert.training.teacher import forward

# Enough for means to settle, few enough to wait for.
TEXTS = 256
_MAX_LENGTH = 128
_BATCH = 16


@dataclass(frozen=True)
class Importance:
    """What was measured, for a model of L layers.

    ``change`` [L] and ``loss`` [L] are a layer's importance in two ways; ``loss`` is None without a fine-tuned
    head and labels. ``curve`` [L] is ``metric`` with the first 1 to L layers, nothing trained: accuracy, or, where
    there is no loss, the mean cosine of the texts' vectors to those of all layers. All over ``texts`` texts.
    """

    change: tuple[float, ...]
    loss: tuple[float, ...] | None
    metric: str
    curve: tuple[float, ...]
    texts: int

    @property
    def ranking(self) -> tuple[float, ...]:
        """What layers are chosen by: the loss where there is one, else the change; larger matters more."""
        return self.change if self.loss is None else self.loss

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        fields = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Importance:
        """The inverse of :meth:`to_dict`."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in document.items()
        }
        return cls(**fields)


def measure_importance(source: Artifact, data: Data, *, tuned: bool, seed: int = 0, texts: int = TEXTS) -> Importance:
    """Measure a checkpoint's layers on up to ``texts`` texts of data's train part.

    ``tuned`` False says that its head, if any, is fresh and proves nothing. Raises InputError where the weights
    give no finite numbers.
    """
    torch.set_num_threads(min(torch.get_num_threads(), machine.allowed_threads()))
    # The loss that is known here is that of a classifier with one label a text.
    labels = source.manifest.labels if problem_of(source.manifest).data == "label" else ()
    matched = match_labels(data, labels) if tuned and labels else None
    rows = sample_texts((matched or data).train, texts, seed)
    probe = _Probe(source, judged=matched is not None)
    # A question means nothing without its context.
    whole = bool(labels) or TASKS[source.manifest.task].asks
    batches = _batches(probe, rows if whole else single_texts(rows), labels if matched else ())
    found = [probe.sums(batch) for batch in bar(batches, "layers")]
    count = sum(sums.texts for sums in found)
    change = _mean([sums.change for sums in found], sum(sums.tokens for sums in found))
    curve, skipped = (_mean(parts, count) for parts in ([s.worth for s in found], [s.skipped for s in found]))
    if not all(map(math.isfinite, [*change, *curve, *skipped])):
        raise InputError("the weights give no finite numbers", str(source.path), "give a sound checkpoint")
    return Importance(change, skipped if matched else None, "accuracy" if matched else "cosine", curve, count)


def _mean(sums: Sequence[Tensor], count: int) -> tuple[float, ...]:
    return tuple((torch.stack(list(sums)).double().sum(dim=0) / count).tolist())


def _batches(probe: _Probe, rows: Sequence[Row], labels: Sequence[str]) -> list[dict[str, Tensor]]:
    """Batches of similar lengths, right-padded; with ``labels``, each row's index among them."""
    manifest = probe.source.manifest
    encoded = tokenize(probe.source, rows, min(_MAX_LENGTH, manifest.max_length))
    number = {label: index for index, label in enumerate(labels)}
    answers = torch.tensor([number[str(row.label)] for row in rows]) if labels else None
    collate = Collator(encoded, answers, pad_id_of(probe.module), probe.family.token_types)
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index].ids))
    return [collate(order[start : start + _BATCH]) for start in range(0, len(order), _BATCH)]


@dataclass(frozen=True)
class _Sums:
    """Sums over one batch: ``change`` [L] over its real ``tokens``, the others [L] over its ``texts``."""

    change: Tensor
    worth: Tensor
    skipped: Tensor
    tokens: int
    texts: int


class _Probe:
    """A checkpoint's model, which can also be entered between two layers.

    ``judged``: its answers are logits, measured by labels; else text vectors, measured by those of all layers.
    """

    def __init__(self, source: Artifact, *, judged: bool) -> None:
        self.source, self.judged = source, judged
        self.family = FAMILIES[source.manifest.architecture.family]
        module = load_module(source, for_training=True)
        self.module = module if judged else encoder_of(module)
        # Whether vectors are normalized makes no difference to their cosine.
        pooling = source.manifest.pooling or Pooling("mean", normalize=False)
        self.pooling = None if judged else pooling

    @torch.inference_mode()
    def sums(self, batch: Mapping[str, Tensor]) -> _Sums:
        """All three measurements on one batch."""
        whole = forward(self.module, batch, self.pooling, hidden=True)
        states, mask = whole.hidden, batch["attention_mask"]
        layers = range(len(states) - 1)
        change = [((1 - _cosine(states[i], states[i + 1])) * mask).sum() for i in layers]
        worth = [self._worth(self._entered(states[i + 1], (), batch), whole, batch) for i in layers]
        skipped = [torch.zeros(()) for _ in layers]
        if self.judged:
            loss = _loss(whole, batch)
            skipped = [_loss(self._entered(states[i], layers[i + 1 :], batch), batch) - loss for i in layers]
        return _Sums(torch.stack(change), torch.stack(worth), torch.stack(skipped), int(mask.sum()), len(mask))

    def _entered(self, state: Tensor, layers: Sequence[int], batch: Mapping[str, Tensor]) -> Outputs:
        """The answer where ``state`` takes the embeddings' place and only ``layers`` run; with none, the head's."""
        parts = dict(encoder_of(self.module).named_modules())
        # Where embeddings are narrower than the layers, what widens them is the last thing before the layers.
        widening = (self.family.projection or "embeddings.weight").rpartition(".")[0]
        last = parts[widening if widening in parts else "embeddings"]
        hook = last.register_forward_hook(lambda *_: state)
        try:
            with only_layers(self.module, self.family, layers):
                return forward(self.module, batch, self.pooling, hidden=False)
        finally:
            hook.remove()

    def _worth(self, found: Outputs, whole: Outputs, batch: Mapping[str, Tensor]) -> Tensor:
        if self.judged:
            return (required(found.logits).argmax(dim=-1) == batch["labels"]).sum()
        return _cosine(required(found.pooled), required(whole.pooled)).sum()


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    return functional.cosine_similarity(first, second, dim=-1)


def _loss(found: Outputs, batch: Mapping[str, Tensor]) -> Tensor:
    return functional.cross_entropy(required(found.logits), batch["labels"], reduction="sum")
