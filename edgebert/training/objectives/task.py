"""The task itself: the given labels, or for a sentence encoder the teacher's sentence vectors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgebert.training.objectives.base import Batch, Weights, required


def labels_term(batch: Batch, weights: Weights) -> Tensor:
    """Distance to the given labels: cross-entropy, or squared error of scores; texts without theirs add nothing."""
    logits, labels, share = required(batch.student.logits), required(batch.labels), torch.tensor(1.0)
    if batch.labelled is not None:
        logits, labels, share = logits[batch.labelled], labels[batch.labelled], batch.labelled.float().mean()
    # The mean over none is no number.
    return weights.labels * share * batch.losses.hard(logits, labels) if len(labels) else logits.sum()


def embedding_term(batch: Batch, weights: Weights) -> Tensor:
    """Distance of the sentence vectors to the teacher's, see :func:`embedding_loss`."""
    return embedding_loss(required(batch.student.pooled), required(batch.teacher.pooled))


def embedding_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error plus cosine distance of sentence vectors [batch, hidden], mean over the batch.

    The first keeps the scale (Reimers and Gurevych 2020, "Making Monolingual Sentence Embeddings
    Multilingual using Knowledge Distillation"), the second the direction (DistilBERT's cosine term).
    """
    cosine = functional.cosine_similarity(student, teacher, dim=-1).mean()
    return functional.mse_loss(student, teacher) + (1.0 - cosine)


def pool(hidden: Tensor, mask: Tensor, mode: str, *, normalize: bool) -> Tensor:
    """Token vectors [batch, sequence, hidden] to sentence vectors [batch, hidden].

    ``mode`` is ``mean`` or ``max`` over real tokens, or ``cls`` (the first token).
    """
    real = mask.to(hidden.dtype).unsqueeze(-1)
    if mode == "cls":
        pooled = hidden[:, 0]
    elif mode == "max":
        pooled = hidden.masked_fill(real == 0, float("-inf")).amax(dim=1)
    else:
        pooled = (hidden * real).sum(dim=1) / real.sum(dim=1).clamp_min(1e-9)
    return functional.normalize(pooled, dim=-1) if normalize else pooled
