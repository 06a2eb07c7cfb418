"""Relations: how the tokens of a text relate to each other in a layer, by its queries, its keys and its values.

Source: Wang et al. 2021, "MiniLMv2: Multi-Head Self-Attention Relation Distillation" (arXiv:2012.15828). The vectors
of student and teacher are cut into equally many relation heads, whatever their attention heads are, and only the
relations within each are compared: so width, heads and family of the two may differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from edgebert.training.objectives.base import Batch, Weights, required

# As many as in the paper, where both widths can be cut so and leave the narrower this many numbers a head.
_MOST_HEADS, _LEAST_WIDTH = 48, 8
# Up to this depth the teacher's last layer is compared, of deeper ones 7/8 of it: layer 21 of 24, as in the paper.
_DEEP = 12


def teacher_layer(layers: int) -> int:
    """Which of the teacher's layers is compared, counted from 0."""
    return (layers if layers <= _DEEP else round(layers * 7 / 8)) - 1


def relation_heads(student: int, teacher: int) -> int:
    """Into how many relation heads vectors of both widths are cut."""
    common, most = math.gcd(student, teacher), max(1, min(student, teacher) // _LEAST_WIDTH)
    return max(heads for heads in range(1, min(_MOST_HEADS, most) + 1) if common % heads == 0)


def relations_term(batch: Batch, weights: Weights) -> Tensor:
    """See :func:`relations_loss`; of the student's last layer and the teacher's :func:`teacher_layer`."""
    return weights.hidden * relations_loss(batch.student.attention, batch.teacher.attention, batch.mask)


def similarity_term(batch: Batch, weights: Weights) -> Tensor:
    """Distance of the texts' similarities to the teacher's, see :func:`similarity_loss`."""
    return similarity_loss(required(batch.student.pooled), required(batch.teacher.pooled))


def relations_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Sum over queries, keys and values [batch, sequence, width] of KL(teacher ‖ student) of their relations.

    A token's relation in a head is a distribution over the tokens; the mean is over heads and real tokens of ``mask``
    [batch, sequence].
    """
    if not student or len(student) != len(teacher):
        raise TypeError("this objective needs queries, keys and values of the model and the teacher")
    heads = relation_heads(student[0].shape[-1], teacher[0].shape[-1])
    pairs = zip(student, teacher, strict=True)
    return torch.stack([_divergence(ours, theirs, mask, heads) for ours, theirs in pairs]).sum()


def _divergence(student: Tensor, teacher: Tensor, mask: Tensor, heads: int) -> Tensor:
    ours, theirs = (_log_relations(vectors, mask, heads) for vectors in (student, teacher))
    # Padding has no share in either: the difference of two numbers far below all others, times nothing.
    each = functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=-1)
    real = mask.to(each.dtype)[:, None, :]
    return (each * real).sum() / (real.sum() * heads).clamp_min(1)


def _log_relations(vectors: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Log of the softmax of scaled products [batch, heads, sequence, sequence], padding left out of each row."""
    split = vectors.reshape(*vectors.shape[:2], heads, -1).transpose(1, 2)
    products = split @ split.transpose(2, 3) / math.sqrt(split.shape[-1])
    hidden = torch.finfo(products.dtype).min / 2
    return functional.log_softmax(products.masked_fill(mask[:, None, None, :] == 0, hidden), dim=-1)


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the cosines of all pairs of texts, of vectors [batch, width] of any two widths.

    What sentence vectors are used for, compared as such (Tung and Mori 2019, "Similarity-Preserving Knowledge
    Distillation", arXiv:1907.09682, with cosines).
    """
    ours, theirs = (functional.normalize(vectors, dim=-1) for vectors in (student, teacher))
    return functional.mse_loss(ours @ ours.T, theirs @ theirs.T)
