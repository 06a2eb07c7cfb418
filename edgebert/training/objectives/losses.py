"""How far logits are from labels and from a teacher's logits, for each way in which logits are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# The label of a token that has none, as torch's cross-entropy has it.
UNLABELLED = -100
# The logit of a token that is none, where a softmax is taken over tokens: finite, and without a share of it.
NO_TOKEN = -1e9


@dataclass(frozen=True)
class Losses:
    """``hard`` compares logits with labels; ``soft`` a student's logits with a teacher's, at a temperature.

    ``soft`` gets them laid out by ``rows`` as one distribution a row, of logits, mask [batch, sequence] and labels.
    """

    hard: Callable[[Tensor, Tensor], Tensor]
    soft: Callable[[Tensor, Tensor, float], Tensor]
    rows: Callable[[Tensor, Tensor, Tensor | None], Tensor] = lambda logits, mask, labels: logits


def soft_label_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student) of logits [batch, labels] softened by T, mean over the batch.

    T² keeps the gradient's size whatever the temperature ("Distilling the Knowledge in a Neural
    Network", section 2).
    """
    log_student = functional.log_softmax(student / temperature, dim=-1)
    log_teacher = functional.log_softmax(teacher / temperature, dim=-1)
    divergence = functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def soft_each_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · KL of every label's yes or no, of logits [batch, labels], mean over batch and labels."""
    # A sigmoid is the softmax beside a zero.
    ours, theirs = (torch.stack([x, torch.zeros_like(x)], dim=-1).reshape(-1, 2) for x in (student, teacher))
    return soft_label_loss(ours, theirs, temperature)


def square_loss(values: Tensor, scores: Tensor) -> Tensor:
    """Mean squared error of values [batch, 1] and scores [batch]."""
    return functional.mse_loss(values[:, 0], scores)


def _soft_values(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    # A value has no softness; the temperature means nothing here.
    return functional.mse_loss(student, teacher)


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits [batch, sequence, labels], mean over the labelled tokens of labels [batch, sequence]."""
    total = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=UNLABELLED, reduction="sum")
    return total / (labels != UNLABELLED).sum().clamp_min(1)


def place_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the tokens of logits [batch, sequence, outputs] and labels [batch, outputs], mean over both.

    Of two outputs, first and last token of the answer: Devlin et al. 2018, section 4.2.
    """
    return functional.cross_entropy(_outputs(logits), labels.flatten())


def _outputs(logits: Tensor) -> Tensor:
    # Every output of every text is a distribution over its tokens.
    return logits.transpose(1, 2).flatten(0, 1)


def _places(logits: Tensor, mask: Tensor, labels: Tensor | None) -> Tensor:
    return _outputs(logits)


def _real_tokens(logits: Tensor, mask: Tensor, labels: Tensor | None) -> Tensor:
    return logits[mask.bool()]


def _labelled_tokens(logits: Tensor, mask: Tensor, labels: Tensor | None) -> Tensor:
    # What a masked model says of the tokens that it sees is no guess.
    return logits[mask.bool() if labels is None else labels != UNLABELLED]


# By the kind of data that the labels come from.
LOSSES: Mapping[str, Losses] = {
    "label": Losses(functional.cross_entropy, soft_label_loss),
    "labels": Losses(functional.binary_cross_entropy_with_logits, soft_each_loss),
    "score": Losses(square_loss, _soft_values),
    "tags": Losses(token_loss, soft_label_loss, _real_tokens),
    "answers": Losses(place_loss, soft_label_loss, _places),
    "text": Losses(token_loss, soft_label_loss, _labelled_tokens),
}
