"""What rows are labelled with, as tensors, and what is counted of a model's answers on dev.

Both by the kind of data; the metric's value comes from the counts by ``aggregates.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgebert.masking import hidden_tokens
from edgebert.spans import entity_counts, first_tokens, joined
from edgebert.training.batches import Encoded
from edgebert.training.labels import names_of
from edgebert.training.objectives.losses import UNLABELLED
from edgebert.training.rows import Row

Names = Sequence[str]


@dataclass(frozen=True)
class Labelling:
    """``tensor`` makes the labels of rows, ``count`` the columns [batch, columns] of a metric from logits and them.

    ``hides``: the model does not see the tokens that are labelled.
    """

    tensor: Callable[[Sequence[Row], Sequence[Encoded], Names], Tensor | list[Tensor]]
    count: Callable[[Tensor, Tensor, Names], Tensor]
    hides: bool = False


def _numbers(rows: Sequence[Row], encoded: Sequence[Encoded], names: Names) -> Tensor:
    number = {name: index for index, name in enumerate(names)}
    return torch.tensor([number[str(row.label)] for row in rows])


def _hits(logits: Tensor, labels: Tensor, names: Names) -> Tensor:
    return (logits.argmax(dim=-1) == labels).float()[:, None]


def _each(rows: Sequence[Row], encoded: Sequence[Encoded], names: Names) -> Tensor:
    sets = [set(names_of(row)) for row in rows]
    return torch.tensor([[float(name in found) for name in names] for found in sets])


def _overlaps(logits: Tensor, labels: Tensor, names: Names) -> Tensor:
    answered, expected = (logits >= 0).float(), labels
    return torch.stack([(answered * expected).sum(1), answered.sum(1), expected.sum(1)], dim=1)


def _scores(rows: Sequence[Row], encoded: Sequence[Encoded], names: Names) -> Tensor:
    return torch.tensor([row.label for row in rows if isinstance(row.label, float)])


def _pairs(logits: Tensor, labels: Tensor, names: Names) -> Tensor:
    return torch.stack([logits[:, 0], labels], dim=1)


def _first_tokens(rows: Sequence[Row], encoded: Sequence[Encoded], names: Names) -> list[Tensor]:
    """A word's tag at its first token (Devlin et al. 2018, section 5.3), no label elsewhere."""
    number = {name: index for index, name in enumerate(names)}
    tensors = []
    for row, item in zip(rows, encoded, strict=True):
        labels = torch.full((len(item.ids),), UNLABELLED)
        tokens = first_tokens(item.places, joined(row.words)[1])
        for token, name in zip(tokens, names_of(row), strict=True):
            if token is not None:
                labels[token] = number[name]
        tensors.append(labels)
    return tensors


def _entities(logits: Tensor, labels: Tensor, names: Names) -> Tensor:
    counts = []
    for answered, expected in zip(logits.argmax(dim=-1), labels, strict=True):
        labelled = expected != UNLABELLED
        tags = [[names[index] for index in part[labelled].tolist()] for part in (answered, expected)]
        counts.append(entity_counts(*tags))
    return torch.tensor(counts, dtype=torch.float32)


def _hidden(rows: Sequence[Row], encoded: Sequence[Encoded], names: Names) -> list[Tensor]:
    tensors = []
    for row, item in zip(rows, encoded, strict=True):
        labels, hidden = torch.full((len(item.ids),), UNLABELLED), hidden_tokens(row.text, item.places)
        labels[hidden] = torch.tensor(item.ids)[hidden]
        tensors.append(labels)
    return tensors


def _guessed(logits: Tensor, labels: Tensor, names: Names) -> Tensor:
    hidden = labels != UNLABELLED
    return torch.stack([((logits.argmax(dim=-1) == labels) & hidden).sum(1), hidden.sum(1)], dim=1).float()


def masked(encoded: Sequence[Encoded], labels: Sequence[Tensor], mask: int) -> list[Encoded]:
    """The rows with their labelled tokens hidden."""
    return [
        replace(item, ids=tuple(torch.where(some == UNLABELLED, torch.tensor(item.ids), mask).tolist()))
        for item, some in zip(encoded, labels, strict=True)
    ]


LABELLINGS: Mapping[str, Labelling] = {
    "label": Labelling(_numbers, _hits),
    "labels": Labelling(_each, _overlaps),
    "score": Labelling(_scores, _pairs),
    "tags": Labelling(_first_tokens, _entities),
    "text": Labelling(_hidden, _guessed, hides=True),
}
