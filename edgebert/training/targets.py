"""What rows are labelled with, as tensors, and what is counted of a model's answers on dev.

Both by the kind of data; the metric's value comes from the counts by ``aggregates.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgebert.masking import hidden_tokens
from edgebert.quotes import Seen, quotes, tokens_of
from edgebert.spans import entity_counts, first_tokens, joined
from edgebert.squad import compared
from edgebert.training.batches import Encoded
from edgebert.training.labels import names_of
from edgebert.training.objectives.losses import UNLABELLED
from edgebert.training.rows import Row

Names = Sequence[str]


@dataclass(frozen=True)
class Answered:
    """A batch and what a model made of it: logits, labels, the names of these, the rows, and what was read of them."""

    logits: Tensor
    labels: Tensor
    names: Names
    rows: Sequence[Row]
    encoded: Sequence[Encoded]


@dataclass(frozen=True)
class Labelling:
    """``tensor`` makes the labels of rows, ``count`` the columns [batch, columns] of a metric from answers to them.

    ``hides``: the model does not see the tokens that are labelled. Where a row is read in windows, both see a row for
    each window, and the last column is how sure the model is in it (see :func:`surest`).
    """

    tensor: Callable[[Sequence[Row], Sequence[Encoded], Names], Tensor | list[Tensor]]
    count: Callable[[Answered], Tensor]
    hides: bool = False


def _numbers(rows: Sequence[Row], encoded: Sequence[Encoded], names: Names) -> Tensor:
    number = {name: index for index, name in enumerate(names)}
    return torch.tensor([number[str(row.label)] for row in rows])


def _hits(found: Answered) -> Tensor:
    return (found.logits.argmax(dim=-1) == found.labels).float()[:, None]


def _each(rows: Sequence[Row], encoded: Sequence[Encoded], names: Names) -> Tensor:
    sets = [set(names_of(row)) for row in rows]
    return torch.tensor([[float(name in found) for name in names] for found in sets])


def _overlaps(found: Answered) -> Tensor:
    answered, expected = (found.logits >= 0).float(), found.labels
    return torch.stack([(answered * expected).sum(1), answered.sum(1), expected.sum(1)], dim=1)


def _scores(rows: Sequence[Row], encoded: Sequence[Encoded], names: Names) -> Tensor:
    return torch.tensor([row.label for row in rows if isinstance(row.label, float)])


def _pairs(found: Answered) -> Tensor:
    return torch.stack([found.logits[:, 0], found.labels], dim=1)


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


def _entities(found: Answered) -> Tensor:
    counts = []
    for answered, expected in zip(found.logits.argmax(dim=-1), found.labels, strict=True):
        labelled = expected != UNLABELLED
        tags = [[found.names[index] for index in part[labelled].tolist()] for part in (answered, expected)]
        counts.append(entity_counts(*tags))
    return torch.tensor(counts, dtype=torch.float32)


def _hidden(rows: Sequence[Row], encoded: Sequence[Encoded], names: Names) -> list[Tensor]:
    tensors = []
    for row, item in zip(rows, encoded, strict=True):
        labels, hidden = torch.full((len(item.ids),), UNLABELLED), hidden_tokens(row.text, item.places)
        labels[hidden] = torch.tensor(item.ids)[hidden]
        tensors.append(labels)
    return tensors


def _guessed(found: Answered) -> Tensor:
    hidden = found.labels != UNLABELLED
    return torch.stack([((found.logits.argmax(dim=-1) == found.labels) & hidden).sum(1), hidden.sum(1)], dim=1).float()


def _answers(rows: Sequence[Row], encoded: Sequence[Encoded], names: Names) -> Tensor:
    """First and last token of the first answer; in a window without it both are the very first token, [CLS].

    As BERT was trained on SQuAD (run_squad.py, Devlin et al. 2018): what such a window says is then weak.
    """
    tokens = [
        row.answers and tokens_of(row.answers[0].place, item.places) for row, item in zip(rows, encoded, strict=True)
    ]
    return torch.tensor([found or (0, 0) for found in tokens])


def _quoted(found: Answered) -> Tensor:
    """F1, exact match, and the score of the window's best answer."""
    counts = []
    for logits, row, item in zip(found.logits.cpu().numpy(), found.rows, found.encoded, strict=True):
        best = quotes([Seen(logits[: len(item.ids)], item.places, item.numbers)])
        text = (row.text_b or "")[best[0].start : best[0].end] if best else ""
        score = best[0].score if best else -math.inf
        counts.append((*compared(text, [answer.text for answer in row.answers or ()]), score))
    return torch.tensor(counts, dtype=torch.float32)


def surest(counts: Tensor, owners: Sequence[int]) -> Tensor:
    """Of the lines [windows, columns] of every text that which is largest in the last column; in the texts' order."""
    best: dict[int, int] = {}
    for line, owner in enumerate(owners):
        if owner not in best or counts[line, -1] > counts[best[owner], -1]:
            best[owner] = line
    return counts[[best[owner] for owner in sorted(best)]]


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
    "answers": Labelling(_answers, _quoted),
    "text": Labelling(_hidden, _guessed, hides=True),
}
