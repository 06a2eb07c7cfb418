"""Variants of the training texts that a student asks its teacher about: words hidden or exchanged, parts, new pairs.

A teacher can label any text, and a student of few layers learns more from more of them. Source: Tang et al. 2019,
"Distilling Task-Specific Knowledge from BERT into Simple Neural Networks" (arXiv:1903.12136), with its shares of words
hidden and exchanged and of texts cut; but exchanged for any word of train, whatever its part of speech, cut to half at
the least, and every fourth pair put together anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from tokenizers import Encoding

from edgebert.artifact import Artifact
from edgebert.spans import Place, joined, stripped
from edgebert.tokenizer import mask_id, open_tokenizer
from edgebert.training.rows import Row

_HIDDEN, _EXCHANGED, _CUT, _REPAIRED = 0.1, 0.1, 0.25, 0.25


def variants(rows: Sequence[Row], copies: int, source: Artifact, seed: int) -> list[Row]:
    """So many variants of every row, the first of all rows first; seed, rows and tokenizer decide what each is.

    Words are what the checkpoint's tokenizer takes for words, or what rows of ``words`` say: of a language without
    blanks between words, that is a whole text for roberta's tokenizers and their like. Labels are the rows' own,
    which the variants need not deserve: nothing should be learned from them. A question's variant has no answers.
    Raises InputError where the tokenizer has no token that hides another.
    """
    if not copies:
        return []
    tokenizer = open_tokenizer(source)
    mask = str(tokenizer.id_to_token(mask_id(source, tokenizer)))
    texts = sorted({text for row in rows if not row.words for text in (row.text, row.text_b) if text is not None})
    found = tokenizer.encode_batch(texts, add_special_tokens=False)
    places = {text: _word_places(text, one) for text, one in zip(texts, found, strict=True)}
    words = [word for row in rows for word in _words_of(row, places) if _is_word(word)]
    maker = _Maker(rows, places, words, mask)
    return [maker.variant(row, Random(f"{seed} {copy} {i}")) for copy in range(copies) for i, row in enumerate(rows)]


def _word_places(text: str, found: Encoding) -> list[Place]:
    places: list[Place] = []
    for number in sorted({number for number in found.word_ids if number is not None}):
        start, end = stripped(text, found.word_to_chars(number) or (0, 0))
        # What a normalizer made several words of one character stands at one place.
        if start < end and (not places or start >= places[-1][1]):
            places.append((start, end))
    return places


def _words_of(row: Row, places: Mapping[str, Sequence[Place]]) -> list[str]:
    if row.words:
        return list(row.words)
    texts = [text for text in (row.text, row.text_b) if text is not None]
    return [text[start:end] for text in texts for start, end in places[text]]


def _is_word(text: str) -> bool:
    """Whether it may be exchanged: marks stand where they are."""
    return any(character.isalnum() for character in text)


@dataclass(frozen=True)
class _Maker:
    """Makes variants of ``rows``, whose texts have words at ``places``; ``words`` are those to exchange others for."""

    rows: Sequence[Row]
    places: Mapping[str, Sequence[Place]]
    words: Sequence[str]
    mask: str

    def variant(self, row: Row, chance: Random) -> Row:
        """A variant of a row: of a pair, either text or both are changed, or the second is another row's."""
        if row.words:
            return self._of_words(row, chance)
        row = replace(row, answers=row.answers and ())
        if row.text_b is None:
            return replace(row, text=self._of_text(row.text, chance))
        if chance.random() < _REPAIRED:
            return replace(row, text_b=chance.choice(self.rows).text_b)
        first, second = chance.choice([(True, False), (False, True), (True, True)])
        return replace(
            row,
            text=self._of_text(row.text, chance) if first else row.text,
            text_b=self._of_text(row.text_b, chance) if second else row.text_b,
        )

    def _of_words(self, row: Row, chance: Random) -> Row:
        kept = _stretch(len(row.words), chance)
        words = tuple(self._instead(row.words[i], chance) for i in kept)
        label = row.label[kept.start : kept.stop] if isinstance(row.label, tuple) else row.label
        return replace(row, text=joined(words)[0], words=words, label=label)

    def _of_text(self, text: str, chance: Random) -> str:
        places = self.places[text]
        kept = _stretch(len(places), chance)
        parts, end = [], 0 if kept.start == 0 else places[kept.start][0]
        for i in kept:
            start, stop = places[i]
            parts += [text[end:start], self._instead(text[start:stop], chance)]
            end = stop
        # What stands behind the last word goes with it.
        return "".join([*parts, text[end:] if kept.stop == len(places) else ""])

    def _instead(self, word: str, chance: Random) -> str:
        drawn = chance.random()
        if drawn >= _HIDDEN + _EXCHANGED or not _is_word(word):
            return word
        return self.mask if drawn < _HIDDEN else chance.choice(self.words)


def _stretch(count: int, chance: Random) -> range:
    """Which of so many words a variant keeps: mostly all."""
    if count < 2 or chance.random() >= _CUT:
        return range(count)
    length = chance.randint((count + 1) // 2, count)
    start = chance.randint(0, count - length)
    return range(start, start + length)
