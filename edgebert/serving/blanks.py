"""From the logits of hidden tokens to guesses at them, as pure functions on arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgebert.serving.answers import Float, softmax


@dataclass(frozen=True)
class Guess:
    """A token that may stand in a blank, as text, and its probability."""

    token: str
    score: float


@dataclass(frozen=True)
class Blank:
    """One mask token of a text, ``text[start:end]`` in characters, and the likeliest tokens for it, best first."""

    start: int
    end: int
    guesses: tuple[Guess, ...]


def likeliest(logits: Float, count: int) -> list[tuple[int, float]]:
    """The ``count`` largest of logits [vocab], each with its probability; of equal ones the first come first."""
    probabilities = softmax(logits)
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(int(index), float(probabilities[index])) for index in order]
