"""Answers as stretches of a context: from the scores of its tokens to the likeliest ones, and from one to its tokens.

Every stretch of up to so many tokens is weighed, in every window that holds it: there is no list of candidates that
the best could be missing from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgebert.spans import Place

Float = npt.NDArray[np.float32]
# Tokens of an answer, as in the program that came with BERT (run_squad.py, Devlin et al. 2018).
LONGEST = 30
# A token that no answer can begin or end with.
_NEVER = np.float32(-np.inf)


@dataclass(frozen=True)
class Seen:
    """A window and what was made of it: logits [tokens, 2] of the first and the last token of the answer.

    ``places`` are the tokens' in the context, of no length for what stands for nothing in it; ``numbers`` count the
    context's tokens across windows, and are None for all others.
    """

    logits: Float
    places: Sequence[Place]
    numbers: Sequence[int | None]


@dataclass(frozen=True)
class Quote:
    """A stretch of the context in characters, its score (the sum of two logits), and its probability.

    The probability is its share among all stretches that were weighed.
    """

    start: int
    end: int
    score: float
    probability: float


def quotes(windows: Sequence[Seen], most: int = 1, longest: int = LONGEST) -> list[Quote]:
    """The ``most`` likeliest stretches of up to ``longest`` tokens, best first; of equal ones the first come first.

    A stretch that stands in several windows has the best of its scores. Fewer where the context has not so many.
    """
    scores = _scores(windows, longest)
    flat = scores.ravel()
    count = min(most, int(np.isfinite(flat).sum()))
    if count == 0:
        return []
    least = np.partition(flat, flat.size - count)[flat.size - count]
    near = np.flatnonzero(flat >= least)
    best = near[np.argsort(-flat[near], kind="stable")][:count]
    weights = np.exp(flat.astype(np.float64) - flat[best[0]])
    places = {n: place for seen in windows for n, place in zip(seen.numbers, seen.places, strict=True) if n is not None}
    found: dict[Place, Quote] = {}
    for index in best:
        first, length = divmod(int(index), scores.shape[1])
        place = places[first][0], places[first + length][1]
        # Several tokens may stand for one character.
        found.setdefault(place, Quote(*place, float(flat[index]), float(weights[index] / weights.sum())))
    return list(found.values())


def _scores(windows: Sequence[Seen], longest: int) -> Float:
    """float32 [tokens of the context, columns]: of the stretch from each token over as many more as the column says."""
    count = 1 + max((number for seen in windows for number in seen.numbers if number is not None), default=-1)
    # None is longer than its window.
    scores = np.full((count, min(longest, max(len(seen.numbers) for seen in windows))), _NEVER)
    for seen in windows:
        inside = [i for i, number in enumerate(seen.numbers) if number is not None]
        if not inside:
            continue
        offset, here = seen.numbers[inside[0]] or 0, slice(inside[0], inside[-1] + 1)
        real = np.array([start < end for start, end in seen.places[here]])
        begin, end = (np.where(real, column, _NEVER) for column in seen.logits[here].T)
        for length in range(min(scores.shape[1], len(inside))):
            rows = scores[offset : offset + len(inside) - length, length]
            np.maximum(rows, begin[: len(inside) - length] + end[length:], out=rows)
    return scores


def tokens_of(place: Place, places: Sequence[Place]) -> tuple[int, int] | None:
    """The first and the last token of a stretch of the context; None where the window does not hold all of it.

    A stretch that begins or ends inside a token has all of it.
    """
    start, end = place
    real = [(token, span) for token, span in enumerate(places) if span[0] < span[1]]
    inside = [token for token, span in real if span[1] > start and span[0] < end]
    if not inside or real[0][1][0] > start or real[-1][1][1] < end:
        return None
    return inside[0], inside[-1]
