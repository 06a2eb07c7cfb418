"""From the graph's outputs to what callers get, as pure functions on arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edgebert.serving.tokens import Tokens

Float = npt.NDArray[np.float32]
T = TypeVar("T")
# A probability from which a label of several counts as given.
_GIVEN = 0.5


@dataclass(frozen=True)
class Prediction:
    """One text's answer: the winning label, its probability, every label's probability.

    ``labels`` are those given: the winner, or, of a multi-label classifier, all whose probability is at least
    one half (``scores`` then need not add up to one). A regression's ``score`` is the value itself.
    ``truncated``: the text was longer than the model reads, and cut. ``chunks``: in how many windows it was read.
    """

    label: str
    score: float
    scores: dict[str, float]
    truncated: bool = False
    chunks: int = 1
    labels: tuple[str, ...] = ()


class Found(list[T]):
    """What was found in one text, in the order it stands there; ``truncated`` and ``chunks`` as of a Prediction."""

    def __init__(self, items: Iterable[T], tokens: Tokens) -> None:
        super().__init__(items)
        self.truncated = tokens.truncated
        self.chunks = len(tokens.windows)


def _one_label(logits: Float, names: Sequence[str], tokens: Sequence[Tokens]) -> list[Prediction]:
    probabilities, best = softmax(logits), logits.argmax(axis=1)
    return [
        _prediction(names, row, int(index), (names[int(index)],), item)
        for row, index, item in zip(probabilities, best, tokens, strict=True)
    ]


def _several_labels(logits: Float, names: Sequence[str], tokens: Sequence[Tokens]) -> list[Prediction]:
    rows = sigmoid(logits)
    return [
        _prediction(names, row, int(row.argmax()), given(names, row), item)
        for row, item in zip(rows, tokens, strict=True)
    ]


def _value(logits: Float, names: Sequence[str], tokens: Sequence[Tokens]) -> list[Prediction]:
    return [_prediction(names, row, 0, (), item) for row, item in zip(logits, tokens, strict=True)]


def _prediction(names: Sequence[str], row: Float, best: int, labels: tuple[str, ...], item: Tokens) -> Prediction:
    scores = dict(zip(names, map(float, row), strict=True))
    return Prediction(names[best], float(row[best]), scores, item.truncated, len(item.windows), labels)


Reader = Callable[[Float, Sequence[str], Sequence[Tokens]], list[Prediction]]
# Logits [n, labels] to predictions, by the kind of data that a classifier learned from.
READERS: Mapping[str, Reader] = {"label": _one_label, "labels": _several_labels, "score": _value}


def given(names: Sequence[str], probabilities: Float) -> tuple[str, ...]:
    """The names whose probability [labels] is at least one half."""
    return tuple(name for name, value in zip(names, probabilities, strict=True) if value >= _GIVEN)


# What a masked token counts as in a maximum, as in sentence-transformers: finite, and below every real value.
_LOWEST = np.float32(-1e9)


def softmax(logits: Float) -> Float:
    """Probabilities along the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    result: Float = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


def sigmoid(logits: Float) -> Float:
    """The probability of each label by itself."""
    # By tanh, which does not overflow.
    result: Float = (0.5 * (1.0 + np.tanh(0.5 * logits))).astype(np.float32)
    return result


def pool(hidden: Float, mask: npt.NDArray[np.int64], mode: str) -> Float:
    """Token vectors [n, sequence, hidden] to text vectors [n, hidden], padding left out on whichever side.

    As sentence-transformers' Pooling module does (modes cls, mean, max), whose cls takes the first token, padding
    or not: here it is the first real one. A row without real tokens is finite and means nothing.
    """
    visible = mask[:, :, None].astype(np.float32)
    if mode == "cls":
        vectors = hidden[np.arange(len(hidden)), mask.argmax(axis=1)]
    elif mode == "max":
        vectors = np.where(visible > 0, hidden, _LOWEST).max(axis=1)
    else:
        vectors = (hidden * visible).sum(axis=1) / np.maximum(visible.sum(axis=1), 1e-9)
    result: Float = vectors.astype(np.float32)
    return result


def normalized(vectors: Float) -> Float:
    """Vectors [n, d] of length one, as sentence-transformers' Normalize module makes them."""
    result: Float = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return result
