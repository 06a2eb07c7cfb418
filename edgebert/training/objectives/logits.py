"""Soft labels: the student matches the teacher's distribution over classes (Hinton, Vinyals, Dean 2015)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from edgebert.training.objectives.base import Batch, Weights, required


def logits_term(batch: Batch, weights: Weights) -> Tensor:
    """See :func:`soft_label_loss`."""
    return soft_label_loss(required(batch.student.logits), required(batch.teacher.logits), weights.temperature)


def soft_label_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student) of logits [batch, labels] softened by T, mean over the batch.

    T² keeps the gradient's size whatever the temperature ("Distilling the Knowledge in a Neural
    Network", section 2).
    """
    log_student = functional.log_softmax(student / temperature, dim=-1)
    log_teacher = functional.log_softmax(teacher / temperature, dim=-1)
    divergence = functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence
