"""From the logits of tokens to labelled words and entities, as pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgebert.serving.answers import Float, softmax
from edgebert.serving.tokens import Tokens
from edgebert.spans import OUTSIDE, Place, entities, first_tokens, words_of


@dataclass(frozen=True)
class Entity:
    """One entity: its label without ``B-`` or ``I-``, and its place, ``text[start:end]``, in characters.

    ``score`` is the mean of its words' probabilities.
    """

    label: str
    score: float
    start: int
    end: int


def entities_of(logits: Float, item: Tokens, names: Sequence[str]) -> list[Entity]:
    """The entities of a text from the logits [tokens, labels] of all its tokens, each once."""
    words = words_of(_places(item), [number for window in item.windows for number in window.words[window.told]])
    probabilities = softmax(logits[[word.token for word in words]])
    tags = [names[int(index)] for index in probabilities.argmax(axis=1)]
    best = probabilities.max(axis=1, initial=0.0)
    return [
        Entity(label, float(np.mean(best[first:end])), words[first].start, words[end - 1].end)
        for label, first, end in entities(tags)
    ]


def word_labels(logits: Float, item: Tokens, words: Sequence[Place], names: Sequence[str]) -> list[str]:
    """The label of each word from the logits [tokens, labels]; ``O`` for a word without a token."""
    found = first_tokens(_places(item), words)
    best = logits.argmax(axis=1)
    return [OUTSIDE if token is None else names[int(best[token])] for token in found]


def _places(item: Tokens) -> list[Place]:
    """The place of each of a text's tokens, whichever window speaks for it."""
    return [place for window in item.windows for place in window.places[window.told]]
