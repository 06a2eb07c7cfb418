"""From the logits of a question and its context to the answer, a stretch of the context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgebert.quotes import LONGEST, Seen, quotes
from edgebert.serving.answers import Float
from edgebert.serving.tokens import Tokens


@dataclass(frozen=True)
class Answer:
    """The answer, ``text``, and its place in the context, ``context[start:end]``, in characters.

    ``score`` is its probability among all stretches of the context that could be the answer; of a context without
    words, 0 for an empty text. ``others`` are the next best, as many as were asked for. ``truncated``: the question,
    or on request the context, was longer than the model reads, and cut. ``chunks``: in how many windows it was read.
    """

    text: str
    start: int
    end: int
    score: float
    others: tuple[Answer, ...] = ()
    truncated: bool = False
    chunks: int = 1


def answer_of(logits: Sequence[Float], item: Tokens, top_k: int = 1, longest: int = LONGEST) -> Answer:
    """The best answer from the logits [tokens, 2] of each of the windows, with the ``top_k`` - 1 after it."""
    seen = [Seen(rows, window.places, window.words) for rows, window in zip(logits, item.windows, strict=True)]
    found = [
        Answer(item.text[quote.start : quote.end], quote.start, quote.end, quote.probability)
        for quote in quotes(seen, top_k, longest)
    ] or [Answer("", 0, 0, 0.0)]
    best = found[0]
    return Answer(
        best.text, best.start, best.end, best.score, tuple(found[1:]), item.truncated, chunks=len(item.windows)
    )
