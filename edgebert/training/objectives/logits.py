"""Soft labels: the student matches the teacher's distribution over classes (Hinton, Vinyals, Dean 2015)."""

from __future__ import annotations

from torch import Tensor

from edgebert.training.objectives.base import Batch, Weights, required


def logits_term(batch: Batch, weights: Weights) -> Tensor:
    """Distance of the logits to the teacher's, softened; see :mod:`~edgebert.training.objectives.losses`."""
    layout, mask, labels = batch.losses.rows, batch.mask, batch.labels
    student = layout(required(batch.student.logits), mask, labels)
    teacher = layout(required(batch.teacher.logits), mask, labels)
    return batch.losses.soft(student, teacher, weights.temperature)
