"""Narrowing: the heads, neurons and hidden states that matter least on the user's data are cut, a few at a time.

How much a unit matters is what first-order Taylor expansion says of its removal, summed over batches: of a head
|∂L/∂mask| (Michel, Levy, Neubig 2019, "Are Sixteen Heads Really Better than One?", arXiv:1905.10650), of a neuron
|w1·∂w1 + b1·∂b1| + |w2·∂w2| (Yang et al. 2022, "TextPruner", arXiv:2203.15996), of a hidden state the same of what
the LayerNorms make of it. Masks are no parameters here: the derivative by a mask of 1 is w·∂w over what it scales.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from edgebert import machine
from edgebert.artifact import Artifact, Manifest, Pooling, problem_of
from edgebert.errors import InputError
from edgebert.families import FAMILIES
from edgebert.progress import bar
from edgebert.shaping.checkpoint import load_module
from edgebert.shaping.reshaped import follows
from edgebert.shaping.width import Choice, named_parts, write_chosen
from edgebert.training.batches import Collator, pad_id_of, tokenize
from edgebert.training.data import Data, match_labels, sample_texts, single_texts
from edgebert.training.objectives.base import required
from edgebert.training.objectives.losses import LOSSES
from edgebert.training.plan import TrainConfig, make_plan
from edgebert.training.teacher import Inputs, forward

TEXTS = 256
_MAX_LENGTH = 128
# Absolute values are taken of each batch: of large ones, texts would cancel each other out.
_BATCH = 8
Loss = Callable[[torch.nn.Module, Inputs], Tensor]


@dataclass(frozen=True)
class NarrowConfig:
    """How wide the result is, nothing wider than the source, heads as wide as there; and the data's digest."""

    hidden: int
    heads: int
    ffn: int
    data: str
    texts: int = TEXTS
    seed: int = 0


def narrow(source: Artifact, config: NarrowConfig, out: Path, *, data: Data) -> Manifest:
    """Stage: measure once, keep the units that matter most, in their order.

    The loss is the task's where data has the labels that the model answers, else the answers' own size in random
    directions, which needs no labels. Raises InputError where the weights give no finite numbers.
    """
    torch.set_num_threads(min(torch.get_num_threads(), machine.allowed_threads()))
    scores = Scores(source)
    loss, batches = _loss_on(source, scores.module, data, config)
    for batch in bar(list(batches), "units"):
        scores.add(loss(scores.module, batch))
    return write_chosen(source, scores.choice(config), out)


def _loss_on(
    source: Artifact, module: torch.nn.Module, data: Data, config: NarrowConfig
) -> tuple[Loss, Iterator[Inputs]]:
    """A loss, and the batches that it is taken of."""
    manifest, problem = source.manifest, problem_of(source.manifest)
    rows = sample_texts(data.train, config.texts, config.seed)
    knows = problem.data == "text" or match_labels(data, manifest.labels, problem.data) is not None
    if knows and manifest.pooling is None:
        settings = TrainConfig(method="none", max_length=_MAX_LENGTH, seed=config.seed)
        collate = make_plan(source, settings, replace(data, train=rows, dev=()), None).collate
        losses = LOSSES[problem.data]

        def judged(module: torch.nn.Module, batch: Inputs) -> Tensor:
            return losses.hard(required(forward(module, batch, None, hidden=False).logits), batch["labels"])

        return judged, _batches(replace(collate, pad_id=pad_id_of(module)))
    texts = list(rows) if manifest.pooling is None else single_texts(rows)
    encoded = tokenize(source, texts, min(_MAX_LENGTH, manifest.max_length))
    types = FAMILIES[manifest.architecture.family].token_types
    generator = torch.Generator().manual_seed(config.seed)
    return _sensitivity(manifest.pooling, generator), _batches(Collator(encoded, None, pad_id_of(module), types))


def _sensitivity(pooling: Pooling | None, generator: torch.Generator) -> Loss:
    """The answers in a direction of random signs: its derivatives' squares have the mean ‖∂answers/∂mask‖²."""

    def loss(module: torch.nn.Module, batch: Inputs) -> Tensor:
        found = forward(module, batch, pooling, hidden=False)
        answers = required(found.logits if pooling is None else found.pooled)
        if answers.ndim == 3:
            answers = answers[batch["attention_mask"].bool()]
        return (answers * (torch.randint(0, 2, answers.shape, generator=generator) * 2 - 1)).sum()

    return loss


def _batches(collate: Collator) -> Iterator[Inputs]:
    order = sorted(range(len(collate.rows)), key=lambda index: len(collate.rows[index].ids))
    return (collate(order[start : start + _BATCH]) for start in range(0, len(order), _BATCH))


class Scores:
    """How much each unit of a model mattered so far: ``of`` hidden states (layer 0), each layer's heads and ffn."""

    def __init__(self, source: Artifact) -> None:
        shape = source.manifest.architecture
        self._source, self._head = source, shape.hidden // shape.heads
        # Embeddings are hidden states too, unless they are narrower.
        self._hidden = ("hidden", "embedding") if follows(source) else ("hidden",)
        self.module = load_module(source, for_training=True)
        self.of: dict[tuple[str, int], Tensor] = {
            ("hidden", 0): torch.zeros(shape.hidden, dtype=torch.float64),
            **{("heads", layer): torch.zeros(shape.heads, dtype=torch.float64) for layer in range(shape.layers)},
            **{("ffn", layer): torch.zeros(shape.ffn, dtype=torch.float64) for layer in range(shape.layers)},
        }

    def add(self, loss: Tensor) -> None:
        """Count one batch."""
        self.module.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for (units, layer, _), products in self._products().items():
            self.of[units, layer] += products.abs()

    def _products(self) -> dict[tuple[str, int, str], Tensor]:
        """w·∂w of everything that belongs to a unit, by units, layer, and the module or the side of it."""
        found: dict[tuple[str, int, str], Tensor] = defaultdict(lambda: torch.zeros(1, dtype=torch.float64))
        parameters = dict(self.module.named_parameters())
        for name, part, layer, _ in named_parts(FAMILIES[self._source.manifest.architecture.family], iter(parameters)):
            parameter = parameters[name]
            if part is None or part.table or parameter.grad is None:
                continue
            product = (parameter.detach() * parameter.grad).double()
            if part.reads == "heads" and product.ndim == 2:
                found["heads", layer, name] = product.sum(dim=0).view(-1, self._head).sum(dim=1)
            elif part.reads == "ffn" and product.ndim == 2:
                found["ffn", layer, name] = product.sum(dim=0)
            elif part.makes == "ffn":
                # Its weights and its bias are one sum, before the sign is dropped.
                found["ffn", layer, "makes"] = found["ffn", layer, "makes"] + product.reshape(len(product), -1).sum(1)
            elif part.makes in self._hidden and part.reads is None:
                module = name.rpartition(".")[0]
                found["hidden", 0, module] = found["hidden", 0, module] + product
        return found

    def choice(self, config: NarrowConfig) -> Choice:
        """The units that matter most, as many as the config says."""
        if not all(bool(sums.isfinite().all()) for sums in self.of.values()):
            where = str(self._source.path)
            raise InputError("the weights give no finite numbers", where, "give a sound checkpoint")
        layers = range(self._source.manifest.architecture.layers)
        return Choice(
            _largest(self.of["hidden", 0], config.hidden),
            tuple(_largest(self.of["heads", layer], config.heads) for layer in layers),
            tuple(_largest(self.of["ffn", layer], config.ffn) for layer in layers),
        )


def _largest(scores: Tensor, count: int) -> Tensor:
    """Numbers of the largest, ascending; of equal ones the lower."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values
