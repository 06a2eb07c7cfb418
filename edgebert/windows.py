"""Long texts in windows that overlap: which tokens of a text, or of a question and its context, each of them holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgebert.spans import Place, stripped

# As many tokens stand in two windows, at most half a window: what is cut by the end of one is whole in the next.
OVERLAP = 128


@dataclass(frozen=True)
class Window:
    """One window: the places of its tokens in the whole encoding, and the number of each in the context.

    ``numbers`` are None for special tokens and those of the question. Those of the context follow one another.
    """

    tokens: tuple[int, ...]
    numbers: tuple[int | None, ...]


def windows_of(sequences: Sequence[int | None], most: int, *, pair: bool = True) -> tuple[list[Window], bool]:
    """The windows, of at most ``most`` tokens each, of a question with its context, and whether the question was cut.

    ``sequences`` says of every token of the whole encoding which text it is of: 0 the question, 1 the context, None
    a special token; of a single text, which is a context without a question (``pair`` False), 0 is the context.
    Every window has the question and all special tokens. A question that leaves the context no room is cut to half
    of what there is for both, or to what a short context leaves.
    """
    told = 1 if pair else 0
    context = [place for place, text in enumerate(sequences) if text == told]
    question = [place for place, text in enumerate(sequences) if text is not None and text != told]
    room = most - (len(sequences) - len(context) - len(question))
    asked = question[: max(room // 2, room - len(context))]
    around = sorted({*range(len(sequences))} - {*context, *question} | {*asked})
    first = context[0] if context else len(sequences)
    before, after = ([place for place in around if (place < first) is side] for side in (True, False))
    width = room - len(asked)
    overlap = min(OVERLAP, width // 2)
    starts = range(0, max(1, len(context) - overlap), max(1, width - overlap))
    found = [_window(before, context[start : start + width], after, start) for start in starts]
    return found, len(asked) < len(question)


def shares_of(windows: Sequence[Window]) -> list[tuple[int, int]]:
    """For each window the places in it, from first to before the last, of the tokens that it speaks for.

    What stands in two windows is parted in the middle: a token goes to the one that shows more around it, and
    every token of the text to one. ``windows`` are at least two, each of which begins in the one before.
    """
    starts = [next(number for number in window.numbers if number is not None) for window in windows]
    ends = [1 + max(number for number in window.numbers if number is not None) for window in windows]
    parted = [(start + end + 1) // 2 for start, end in zip(starts[1:], ends, strict=False)]
    bounds = zip(windows, starts, [0, *parted], [*parted, ends[-1]], strict=True)
    return [
        (window.numbers.index(start) + first - start, window.numbers.index(start) + last - start)
        for window, start, first, last in bounds
    ]


def places_in(context: str, window: Window, offsets: Sequence[Place]) -> tuple[Place, ...]:
    """The place in the context of each of a window's tokens, without blanks around it; (0, 0) for all others.

    ``offsets`` are the places of all tokens of the encoding, each in its own text.
    """
    return tuple(
        (0, 0) if number is None else stripped(context, offsets[token])
        for token, number in zip(window.tokens, window.numbers, strict=True)
    )


def _window(before: Sequence[int], context: Sequence[int], after: Sequence[int], start: int) -> Window:
    numbers = (*(None for _ in before), *range(start, start + len(context)), *(None for _ in after))
    return Window((*before, *context, *after), numbers)
