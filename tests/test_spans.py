"""Words and entities: worked by hand, and against a second way to read IOB2."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebert.judging.metrics import entity_f1
from edgebert.spans import Word, entities, entity_counts, first_tokens, joined, words_of

# Read as conlleval reads them.
CASES = {
    "": [],
    "O O": [],
    "B-PER I-PER O B-LOC": [("PER", 0, 2), ("LOC", 3, 4)],
    "B-PER B-PER": [("PER", 0, 1), ("PER", 1, 2)],
    "I-PER I-PER": [("PER", 0, 2)],
    "O I-LOC": [("LOC", 1, 2)],
    "B-PER I-LOC I-LOC": [("PER", 0, 1), ("LOC", 1, 3)],
    "B-PER O I-PER": [("PER", 0, 1), ("PER", 2, 3)],
    "B-a-b I-a-b": [("a-b", 0, 2)],
    "NOUN NOUN O VERB": [("NOUN", 0, 1), ("NOUN", 1, 2), ("VERB", 3, 4)],
}


@pytest.mark.parametrize(("tags", "expected"), CASES.items())
def test_entities_by_hand(tags: str, expected: list[tuple[str, int, int]]) -> None:
    assert list(entities(tags.split())) == expected


TAGS = st.lists(st.sampled_from(["O", "B-x", "I-x", "B-y", "I-y"]), max_size=12)


@given(TAGS)
def test_entities_begin_and_end_where_conlleval_says(tags: list[str]) -> None:
    # conlleval's two questions, asked of every neighbouring pair.
    padded = ["O", *tags, "O"]
    types = [tag[2:] for tag in padded]
    begins = [
        i for i in range(1, len(padded) - 1)
        if padded[i] != "O" and (padded[i][0] == "B" or padded[i - 1] == "O" or types[i - 1] != types[i])
    ]  # fmt: skip
    ends = [
        i for i in range(1, len(padded) - 1)
        if padded[i] != "O" and (padded[i + 1][0] in "BO" or types[i + 1] != types[i])
    ]  # fmt: skip
    assert [(first, end) for _, first, end in entities(tags)] == [
        (begin - 1, end) for begin, end in zip(begins, ends, strict=True)
    ]


def test_f1_by_hand() -> None:
    # One right of three answered and two expected; the second text adds one that nobody found.
    expected = [["B-x", "I-x", "O", "B-y"], ["B-x"]]
    predicted = [["B-x", "I-x", "B-x", "B-x"], ["O"]]
    assert entity_counts(predicted[0], expected[0]) == (1, 3, 2)
    metric = entity_f1(predicted, expected).metric_value()
    assert metric.name == "entity_f1"
    assert metric.value == pytest.approx(2 * 1 / (3 + 3))
    assert entity_f1([["O"]], [["O"]]).metric_value().value == 0.0


def test_words_of_tokens() -> None:
    # [CLS] un ##usual , [SEP] and a token of a blank.
    places = [(0, 0), (0, 2), (2, 7), (7, 8), (0, 0), (9, 9)]
    assert words_of(places, [None, 0, 0, 1, None, 2]) == [Word(1, 0, 7), Word(3, 7, 8)]


@pytest.mark.parametrize("blank", [0, 1])
def test_first_tokens(blank: int) -> None:
    text, words = joined(["U.N.", "in", "Rome"])
    assert [text[start:end] for start, end in words] == ["U.N.", "in", "Rome"]
    # U . N . in Rome, where some tokenizers count the blank to the word after it; the last is cut off.
    places = [(0, 0), (0, 1), (1, 2), (2, 3), (3, 4), (5 - blank, 7), (0, 0)]
    assert first_tokens(places, words) == [1, 5, None]
    assert first_tokens([], words) == [None, None, None]
