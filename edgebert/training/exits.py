"""Exits: a model that answers after several of its layers, each with a head of its own, the layers shared.

All depths are trained in one run, as a model's ``exits`` beside its own head (sentence-transformers'
AdaptiveLayerLoss and DynaBERT, Hou et al. 2020, arXiv:2004.04037, train depths together too). What comes out is one
plain checkpoint a depth.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from edgebert.artifact import Pooling
from edgebert.families import FAMILIES, Family
from edgebert.shaping.depth import answering_from, encoder_of, move_layers
from edgebert.training.objectives.base import Outputs
from edgebert.training.objectives.task import pool
from edgebert.training.plan import Plan
from edgebert.training.processes import average
from edgebert.training.teacher import Inputs, forward
from edgebert.training.work import Best, Work

log = logging.getLogger("edgebert")
_NAME = "exits"
# A loss so small is as good as none: a depth that answers as the teacher does has no more to learn.
_FLOOR = 0.01


class Answers(Protocol):
    """What a model that is trained answers to a batch, at one depth or several, and where the best is kept."""

    def __call__(self, module: torch.nn.Module, inputs: Inputs) -> list[Outputs]:
        """The outputs of each depth."""

    def keep(self, module: torch.nn.Module, work: Work, values: Sequence[float], step: int) -> bool:
        """Keep the weights where they do better on dev than before, by the value of each depth; whether any did."""


def answers_of(plan: Plan, module: torch.nn.Module) -> Answers:
    """The answers that a plan trains; where these are of several depths, ``module`` gets the heads for them."""
    manifest = plan.source.manifest
    if plan.config.exits:
        return Exits(module, FAMILIES[manifest.architecture.family], manifest.pooling, plan.config.exits)
    return _Alone(manifest.pooling, bool(plan.states), plan.attention and plan.attention[0])


@dataclass(frozen=True)
class _Alone:
    """The model's own answer, with the ``hidden`` states, and queries, keys and values of the layer ``attention``."""

    pooling: Pooling | None
    hidden: bool
    attention: int | None

    def __call__(self, module: torch.nn.Module, inputs: Inputs) -> list[Outputs]:
        return [forward(module, inputs, self.pooling, hidden=self.hidden, attention=self.attention)]

    def keep(self, module: torch.nn.Module, work: Work, values: Sequence[float], step: int) -> bool:
        return work.offer(module, Best(values[0], step))


class Exits:
    """The depths at which a model answers; its own, the deepest, is the last of ``depths``.

    Heads of the others begin as copies of the model's. They become parameters of the model, so that whatever trains,
    saves or resumes it takes them along.
    """

    def __init__(self, module: torch.nn.Module, family: Family, pooling: Pooling | None, depths: Sequence[int]) -> None:
        self.depths = tuple(sorted(depths))
        # What is called may be a wrapper of it, for several processes.
        self._module, self._family, self._pooling = module, family, pooling
        heads = {} if pooling else _heads(module, family)
        copies = {str(depth): _together(copy.deepcopy(heads)) for depth in self.depths[:-1]}
        module.add_module(_NAME, torch.nn.ModuleDict(copies))

    def __call__(self, module: torch.nn.Module, inputs: Inputs) -> list[Outputs]:
        """What the model answers at each depth, from one pass through its layers."""
        whole = forward(module, inputs, self._pooling, hidden=True)
        shallow = [self._answer(inputs, whole.hidden[depth], depth) for depth in self.depths[:-1]]
        return [*shallow, Outputs(whole.logits, whole.hidden[-1:], whole.pooled)]

    def _answer(self, inputs: Inputs, state: Tensor, depth: int) -> Outputs:
        """The answer where ``state`` [batch, sequence, hidden] is what the last layer gives."""
        if self._pooling:
            pooled = pool(state, inputs["attention_mask"], self._pooling.mode, normalize=self._pooling.normalize)
            return Outputs(hidden=(state,), pooled=pooled)
        module = self._module
        with answering_from(module, self._family, state), _heads_of(module, self._family, depth):
            return replace(forward(module, inputs, None, hidden=False), hidden=(state,))

    def weights(self, depth: int) -> dict[str, Tensor]:
        """The weights of one depth by the names that a checkpoint of so many layers has, as copies."""
        module = self._module
        own = {name: tensor for name, tensor in module.state_dict().items() if not name.startswith(f"{_NAME}.")}
        kept = move_layers(own, self._family, tuple(range(depth)))
        if depth != self.depths[-1]:
            with _heads_of(module, self._family, depth):
                kept |= {name: tensor for name, tensor in module.state_dict().items() if name in kept}
        return {name: tensor.detach().clone().contiguous() for name, tensor in kept.items()}

    def keep(self, module: torch.nn.Module, work: Work, values: Sequence[float], step: int) -> bool:
        """Keep the weights of each depth that did better than before; whether any did."""
        found = dict(zip(self.depths, values, strict=True))
        log.info("%s", ", ".join(f"{depth} layers {value:.4f}" for depth, value in found.items()))
        offers = [depth_work(work, d).offer(self.weights(d), Best(value, step)) for d, value in found.items()]
        return any(offers)


def take_heads(module: torch.nn.Module, teacher: torch.nn.Module, family: Family) -> None:
    """Give a model the head of its teacher, of the same family and width.

    Every depth is to end with the states that this head reads: so it tells what they are worth from the first step
    (Chen et al. 2022, "Knowledge Distillation with the Reused Teacher Classifier", arXiv:2203.14001).
    """
    theirs = _heads(teacher, family)
    for name, part in _heads(module, family).items():
        part.load_state_dict(theirs[name].state_dict())


def balanced(losses: Tensor) -> Tensor:
    """The mean of several depths' losses [depths], with the gradient of their square roots' but for a factor.

    By the losses themselves the shallowest, which errs most, decides for all; by their geometric mean (Chennupati et
    al. 2019, "MultiNet++", arXiv:1904.08492) the deepest does. This is between the two.
    """
    scaled = (losses / (average(losses.detach()).relu() + _FLOOR).sqrt()).mean()
    return losses.detach().mean() + scaled - scaled.detach()


def depth_work(work: Work, depth: int) -> Work:
    """Where the best weights of one depth are kept."""
    folder = work.path / f"depth-{depth}"
    folder.mkdir(exist_ok=True)
    return Work(folder)


def _heads(module: torch.nn.Module, family: Family) -> dict[str, torch.nn.Module]:
    """What has parameters above the layers, by name: the model's head, and the encoder's pooler."""
    encoder, stack = encoder_of(module), family.layer_prefix.partition(".")[0]
    below = {"embeddings", stack, (family.projection or "").partition(".")[0]}
    found = {f"{family.base_prefix}{name}": part for name, part in encoder.named_children() if name not in below}
    found |= {name: part for name, part in module.named_children() if part is not encoder and name != _NAME}
    return {name: part for name, part in found.items() if any(True for _ in part.parameters())}


def _together(heads: Mapping[str, torch.nn.Module]) -> torch.nn.ModuleDict:
    # A name in a ModuleDict may hold no dot.
    return torch.nn.ModuleDict({name.replace(".", "/"): part for name, part in heads.items()})


@contextmanager
def _heads_of(module: torch.nn.Module, family: Family, depth: int) -> Iterator[None]:
    """Put the heads of one depth in place of the model's own until the block ends."""
    own = _heads(module, family)
    exits = module.get_submodule(f"{_NAME}.{depth}")
    try:
        for name, part in exits.named_children():
            _put(module, name.replace("/", "."), part)
        yield
    finally:
        for name, part in own.items():
            _put(module, name, part)


def _put(module: torch.nn.Module, name: str, part: torch.nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, part)
