"""Hidden states: each student layer matches the teacher layer that stands at the same relative depth.

Sources: Sun et al. 2019, "Patient Knowledge Distillation" (every k-th layer), and Jiao et al. 2020,
"TinyBERT" (squared error, the embeddings' output included, the uniform map best of three).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgebert.training.objectives.base import Batch, Weights, masked_mean


def uniform_map(student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """For the student's states 0 (embeddings) to ``student_layers``, the teacher's state to match.

    Evenly spread, rounded half up, from embeddings to last layer: 3 of 6 gives (0, 2, 4, 6).
    """
    return tuple((2 * i * teacher_layers + student_layers) // (2 * student_layers) for i in range(student_layers + 1))


def hidden_term(batch: Batch, weights: Weights) -> Tensor:
    """See :func:`hidden_loss`; the teacher's states come already chosen by :func:`uniform_map`."""
    return weights.hidden * hidden_loss(batch.student.hidden, batch.teacher.hidden, batch.mask)


def hidden_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Sum over states of the mean squared error [batch, sequence, hidden]; padding does not count.

    A sum, as in TinyBERT: what a state has to learn does not shrink as the student gets deeper.
    """
    pairs = zip(student, teacher, strict=True)
    return torch.stack([masked_mean((ours - theirs).square(), mask) for ours, theirs in pairs]).sum()
