"""What every objective sees, and its shape. The objectives themselves are a file each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from edgebert.training.objectives.losses import LOSSES, Losses


@dataclass(frozen=True)
class Outputs:
    """What a model made of a batch, or what a teacher made of it.

    ``logits`` [batch, labels], of a tagger [batch, sequence, labels], of first and last tokens of answers [batch,
    sequence, 2], padding far below all else · ``hidden`` the embeddings' output and each
    layer's, or of a teacher only those asked for, [batch, sequence, hidden] each · ``attention`` queries, keys and
    values of one layer, [batch, sequence, hidden] each · ``pooled`` [batch, hidden].
    None or empty where the task or method has no use for it.
    """

    logits: Tensor | None = None
    hidden: tuple[Tensor, ...] = ()
    pooled: Tensor | None = None
    attention: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Batch:
    """One batch on its way through an objective: both outputs, mask [batch, sequence], labels, how these compare.

    Labels are class numbers [batch], 0 or 1 for each class [batch, labels], scores [batch], class numbers of
    tokens [batch, sequence], or tokens [batch, 2]. ``labelled`` [batch] tells the texts that have theirs, None: all.
    """

    student: Outputs
    teacher: Outputs
    mask: Tensor
    labels: Tensor | None = None
    losses: Losses = LOSSES["label"]
    labelled: Tensor | None = None


@dataclass(frozen=True)
class Weights:
    """How much each term counts: ``labels`` for the given labels, ``hidden`` for what goes on in the layers.

    The soft labels count once (× T²).
    """

    labels: float
    hidden: float
    temperature: float


class Term(Protocol):
    """One summand of the loss: a batch to a scalar tensor, already weighted."""

    def __call__(self, batch: Batch, weights: Weights) -> Tensor:
        """The term's value."""


def required(tensor: Tensor | None) -> Tensor:
    """The tensor a term cannot do without."""
    if tensor is None:
        raise TypeError("this objective needs an output that the model or the teacher did not give")
    return tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` [batch, sequence, hidden] over the real tokens of ``mask`` [batch, sequence]."""
    weight = mask.to(values.dtype).unsqueeze(-1)
    return (values * weight).sum() / (weight.sum() * values.shape[-1]).clamp_min(torch.finfo(values.dtype).tiny)
