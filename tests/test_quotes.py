"""Windows, stretches and their comparison: against brute force, and against SQuAD's own evaluation script."""

from __future__ import annotations

import re
import string
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebert.judging.metrics import answer_f1
from edgebert.quotes import Float, Seen, quotes, tokens_of
from edgebert.squad import compared, normalized
from edgebert.windows import OVERLAP, windows_of


def sequences(question: int, context: int, between: int = 1) -> list[int | None]:
    """[CLS] question [SEP] context [SEP], as a tokenizer tells the texts apart; roberta has two between them."""
    return [None, *[0] * question, *[None] * between, *[1] * context, None]


SIZES = (st.integers(0, 40), st.integers(0, 700), st.integers(5, 600), st.integers(1, 2))


@given(*SIZES)
def test_windows_hold_all_of_the_context(question: int, context: int, most: int, between: int) -> None:
    texts = sequences(question, context, between)
    windows, cut = windows_of(texts, most)
    special = [i for i, text in enumerate(texts) if text is None]
    covered: list[int] = []
    for window in windows:
        assert list(window.tokens) == sorted(set(window.tokens))
        assert len(window.tokens) <= most
        assert [i for i in window.tokens if texts[i] is None] == special
        # Each with the same part of the question, all of it or its beginning.
        asked = [i for i in window.tokens if texts[i] == 0]
        assert asked == list(range(1, 1 + len(asked)))
        assert cut == (len(asked) < question)
        inside = [number for number in window.numbers if number is not None]
        first = 1 + question + between
        assert [i - first for i in window.tokens if texts[i] == 1] == inside
        assert inside == list(range(inside[0], inside[0] + len(inside))) if inside else context == 0
        covered += inside
    assert set(covered) == set(range(context))
    if len(texts) <= most:
        assert len(windows) == 1
        assert not cut


@given(*SIZES)
def test_windows_overlap_and_none_is_idle(question: int, context: int, most: int, between: int) -> None:
    windows, _ = windows_of(sequences(question, context, between), most)
    inside = [[number for number in window.numbers if number is not None] for window in windows]
    for before, after in pairwise(inside):
        assert len(set(before) & set(after)) == min(OVERLAP, len(before) // 2)
        assert after[-1] > before[-1]


def test_a_text_alone_is_a_context() -> None:
    windows, cut = windows_of([None, 0, 0, 0, 0, None], 5, pair=False)
    assert [window.numbers for window in windows] == [(None, 0, 1, 2, None), (None, 2, 3, None)]
    assert not cut


def test_a_long_question_leaves_the_context_half() -> None:
    ((first, *_), cut) = windows_of(sequences(400, 1000), 103)
    assert cut
    assert sum(number is not None for number in first.numbers) == 50
    # A short context needs less.
    ((only,), cut) = windows_of(sequences(400, 10), 103)
    assert cut
    assert sum(number is None for number in only.numbers) == 93


def seen(count: int, most: int, seed: int, blanks: bool = False) -> list[Seen]:
    """Windows of a context of ``count`` tokens, with random logits; some tokens may stand for nothing."""
    generator = np.random.default_rng(seed)
    texts = sequences(3, count)
    found = []
    for window in windows_of(texts, most)[0]:
        logits = generator.normal(size=(len(window.tokens), 2)).astype(np.float32)
        width = [0 if blanks and number is not None and number % 4 == 3 else 2 for number in window.numbers]
        places = tuple(
            (0, 0) if number is None else (3 * number, 3 * number + size)
            for number, size in zip(window.numbers, width, strict=True)
        )
        found.append(Seen(logits, places, window.numbers))
    return found


def brute_force(windows: list[Seen], longest: int) -> dict[tuple[int, int], float]:
    """The best score of every stretch, by places."""
    best: dict[tuple[int, int], float] = {}
    for window in windows:
        real = [i for i, (start, end) in enumerate(window.places) if start < end]
        for i in real:
            for j in real:
                if i <= j < i + longest:
                    place = window.places[i][0], window.places[j][1]
                    score = float(window.logits[i, 0] + window.logits[j, 1])
                    best[place] = max(score, best.get(place, -np.inf))
    return best


@given(st.integers(1, 60), st.integers(8, 40), st.integers(1, 12), st.integers(0, 5), st.booleans())
def test_the_best_is_that_of_all_there_are(count: int, most: int, longest: int, seed: int, blanks: bool) -> None:
    windows = seen(count, most, seed, blanks)
    expected = brute_force(windows, longest)
    found = quotes(windows, len(expected), longest)
    assert {(quote.start, quote.end) for quote in found} == expected.keys()
    scores = [quote.score for quote in found]
    assert scores == sorted(scores, reverse=True)
    assert scores == pytest.approx([expected[quote.start, quote.end] for quote in found], abs=1e-6)
    assert sum(quote.probability for quote in found) == pytest.approx(1.0)
    for few in (1, 3):
        assert quotes(windows, few, longest) == found[:few]


def test_a_quote_by_hand() -> None:
    # [CLS] q [SEP] a b c [SEP]: the end may not stand before the start, nor either in the question.
    logits: Float = np.array([[9, 9], [9, 9], [9, 9], [0, 2], [1, 0], [0, 0.5], [9, 9]], dtype=np.float32)
    window = Seen(logits, [(0, 0)] * 3 + [(0, 1), (2, 3), (4, 5)] + [(0, 0)], [None, None, None, 0, 1, 2, None])
    (best,) = quotes([window])
    assert (best.start, best.end, best.score) == (0, 1, 2.0)
    weights = np.exp([2, 0, 0.5, 1, 1.5, 0.5])
    assert best.probability == pytest.approx(np.exp(2) / weights.sum())
    assert [(quote.start, quote.end) for quote in quotes([window], 2)] == [(0, 1), (2, 5)]
    assert quotes([Seen(logits[:3], [(0, 0)] * 3, [None] * 3)]) == []


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=20), st.data())
def test_a_stretch_of_tokens_is_found_again(sizes: list[tuple[int, int]], data: st.DataObject) -> None:
    places, at = [], 0
    for size, gap in sizes:
        places.append((at, at + size))
        at += size + gap
    real = [i for i, (start, end) in enumerate(places) if start < end]
    if not real:
        assert tokens_of((0, 1), places) is None
        return
    i, j = sorted((data.draw(st.sampled_from(real)), data.draw(st.sampled_from(real))))
    assert tokens_of((places[i][0], places[j][1]), places) == (i, j)
    # What begins before the window or ends after it is not in it.
    assert tokens_of((places[i][0], places[real[-1]][1] + 1), places) is None
    assert tokens_of((places[real[0]][0] - 1, places[j][1]), places) is None


def official(answer: str, expected: list[str]) -> tuple[float, float]:
    """evaluate-v2.0.py of SQuAD, its functions in its own steps."""

    def normalize_answer(s: str) -> str:
        lower = s.lower()
        no_punctuation = "".join(ch for ch in lower if ch not in set(string.punctuation))
        no_articles = re.compile(r"\b(a|an|the)\b", re.UNICODE).sub(" ", no_punctuation)
        return " ".join(no_articles.split())

    def compute_f1(a_gold: str, a_pred: str) -> float:
        gold_toks, pred_toks = normalize_answer(a_gold).split(), normalize_answer(a_pred).split()
        num_same = sum((Counter(gold_toks) & Counter(pred_toks)).values())
        if len(gold_toks) == 0 or len(pred_toks) == 0:
            return int(gold_toks == pred_toks)
        if num_same == 0:
            return 0
        precision, recall = num_same / len(pred_toks), num_same / len(gold_toks)
        return (2 * precision * recall) / (precision + recall)

    golds = [a for a in expected if normalize_answer(a)] or [""]
    exact = max(int(normalize_answer(a) == normalize_answer(answer)) for a in golds)
    return max(compute_f1(a, answer) for a in golds), exact


WORDS = st.lists(st.sampled_from(["a", "The", "an", "cat", "Cat!", "42", "U.S.", "—", "naïve", "-", ""]), max_size=6)
ANSWERS = WORDS.map(" ".join)


@given(ANSWERS, st.lists(ANSWERS, min_size=1, max_size=3))
def test_answers_are_compared_as_squads_script_does(answer: str, expected: list[str]) -> None:
    assert compared(answer, expected) == pytest.approx(official(answer, expected))


def test_f1_by_hand() -> None:
    assert normalized("  The U.S.  Army, a\tgroup ") == "us army group"
    # Two of three words shared with one, all of two with the other.
    assert compared("the big cat", ["a big black cat", "big cats"]) == pytest.approx((0.8, 0.0))
    metric = answer_f1(["big cat", "dog"], [["the big cat"], ["cat", "a dog"]]).metric_value()
    assert (metric.name, metric.value) == ("answer_f1", 1.0)
    scores = answer_f1(["black cat", "dog"], [["cat"], ["dog"]])
    assert scores.rows.tolist() == [[pytest.approx(2 / 3), 0.0], [1.0, 1.0]]
