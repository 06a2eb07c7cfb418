"""Words and entities as stretches of a text: pure functions on offsets and tags.

Offsets are of characters, from start to before end. Tags are IOB2: ``B-`` begins an entity, ``I-`` continues it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Place = tuple[int, int]
OUTSIDE = "O"


@dataclass(frozen=True)
class Word:
    """A word of a text, and the token that speaks for it: its first."""

    token: int
    start: int
    end: int


def joined(words: Sequence[str]) -> tuple[str, list[Place]]:
    """Words as one text, a blank between them, and where each stands in it."""
    places, start = [], 0
    for word in words:
        places.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(words), places


def stripped(text: str, place: Place) -> Place:
    """A place in a text without the blanks around it, which some tokenizers count to the word after them."""
    start, end = place
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def words_of(places: Sequence[Place], numbers: Sequence[int | None]) -> list[Word]:
    """The words that a tokenizer has cut a text into, from each token's place and number of its word.

    Special tokens have no number, and tokens of blanks no length: neither is a word's first.
    """
    words: list[Word] = []
    last: int | None = None
    for token, ((start, end), number) in enumerate(zip(places, numbers, strict=True)):
        if number is None or start == end:
            continue
        if number == last:
            words[-1] = Word(words[-1].token, words[-1].start, max(end, words[-1].end))
        else:
            words.append(Word(token, start, end))
        last = number
    return words


def first_tokens(places: Sequence[Place], words: Sequence[Place]) -> list[int | None]:
    """The first token of each word, given the places of both in order; None for words that were cut off.

    A token is of the word that its last character is in: some tokenizers count the blank before it in.
    """
    found: list[int | None] = [None] * len(words)
    word = 0
    for token, (start, end) in enumerate(places):
        if start == end:
            continue
        while word < len(words) and words[word][1] < end:
            word += 1
        if word < len(words) and words[word][0] < end and found[word] is None:
            found[word] = token
    return found


def entities(tags: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Entities (type, first word, word after the last) of the tags of a text's words.

    As conlleval, and seqeval by default, read IOB2: an ``I-`` after ``O`` or after another type begins an entity
    too. A tag of neither kind is an entity of one word.
    """
    kind, first = "", 0
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, name = tag.partition("-")
        if kind and prefix == "I" and name == kind:
            continue
        if kind:
            yield kind, first, place
        tagged = prefix in ("B", "I") and name
        kind, first = (name if tagged else "" if tag == OUTSIDE else tag), place


def entity_counts(predicted: Sequence[str], expected: Sequence[str]) -> tuple[int, int, int]:
    """How many entities of a text are right in type and both ends, how many are answered, how many expected."""
    ours, theirs = set(entities(predicted)), set(entities(expected))
    return len(ours & theirs), len(ours), len(theirs)
