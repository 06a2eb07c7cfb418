"""What the pick answers otherwise than the teacher: counted by hand, and properties over any answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebert.choosing.changes import Changes, changes_between, class_changes, count_flips
from edgebert.judging.metrics import Scores, difference
from edgebert.training.data import Row

LABELS = ("bad", "good", "odd")
EXPECTED = ["bad", "bad", "bad", "good", "good", "odd"]
TEACHER = ["bad", "bad", "good", "good", "good", "bad"]
PICK = ["bad", "good", "bad", "odd", "good", "good"]
ANSWERS = st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=40)


def rows(expected: list[str]) -> tuple[Row, ...]:
    return tuple(Row(f"text {number}", None, label) for number, label in enumerate(expected))


def scores(answers: list[str], labels: tuple[str, ...] = LABELS, confidence: float = 0.75) -> Scores:
    hits = np.array([[float(a == e)] for a, e in zip(answers, EXPECTED, strict=True)])
    indices = np.array([labels.index(answer) for answer in answers], dtype=np.int32)
    return Scores("accuracy", hits, labels, indices, np.full(len(answers), confidence, dtype=np.float32))


def changes() -> Changes:
    found = changes_between(scores(PICK), scores(TEACHER), rows(EXPECTED))
    assert found is not None
    return found


def test_flips_are_counted_by_what_became_of_them() -> None:
    flips = changes().flips
    assert (flips.texts, flips.lost, flips.gained, flips.moved) == (6, 2, 1, 1)


def test_each_class_has_its_shares_and_the_one_that_lost_most_comes_first() -> None:
    good, bad, odd = changes().classes
    assert [c.label for c in (good, bad, odd)] == ["good", "bad", "odd"]
    assert (good.texts, good.teacher, good.pick, good.change, good.lost, good.gained) == (2, 1.0, 0.5, -0.5, 1, 0)
    assert [bad.texts, bad.teacher, bad.pick, bad.change] == pytest.approx([3, 2 / 3, 2 / 3, 0])
    assert (bad.lost, bad.gained) == (1, 1)
    assert bad.low < 0 < bad.high
    assert (odd.texts, odd.teacher, odd.pick, odd.low, odd.high) == (1, 0.0, 0.0, 0.0, 0.0)


def test_examples_are_what_the_teacher_had_right_the_surest_mistake_first() -> None:
    sure = replace(scores(PICK), confidence=np.array([0.9, 0.4, 0.9, 0.8, 0.9, 0.99], dtype=np.float32))
    found = changes_between(sure, scores(TEACHER), rows(EXPECTED))
    assert found is not None
    first, second = found.examples
    assert (first.text, first.label, first.pick) == ("text 3", "good", "odd")
    assert first.pick_confidence == pytest.approx(0.8)
    assert first.teacher_confidence == 0.75
    assert (second.text, second.label, second.pick) == ("text 1", "bad", "good")


def test_only_the_worst_examples_are_told() -> None:
    count = 40
    many = rows(["bad"] * count)
    hits = np.ones((count, 1))
    right = np.zeros(count, dtype=np.int32)
    sure = np.linspace(0.5, 1, count, dtype=np.float32)
    found = changes_between(
        Scores("accuracy", 1 - hits, LABELS, right + 1, sure), Scores("accuracy", hits, LABELS, right, sure), many
    )
    assert found is not None
    assert found.flips.lost == count
    assert [e.text for e in found.examples] == [f"text {number}" for number in range(39, 29, -1)]


def test_two_models_may_order_the_same_labels_differently() -> None:
    turned = scores(PICK, labels=("odd", "good", "bad"))
    assert changes_between(turned, scores(TEACHER), rows(EXPECTED)) == changes()


def test_without_answers_there_is_nothing_to_say() -> None:
    hits = replace(scores(PICK), predicted=None, confidence=None)
    assert changes_between(hits, scores(TEACHER), rows(EXPECTED)) is None
    assert changes_between(scores(PICK), hits, rows(EXPECTED)) is None


def test_answers_to_other_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="one set of texts"):
        changes_between(scores(PICK), scores(TEACHER), rows(EXPECTED[:-1]))


@given(ANSWERS)
def test_the_classes_add_up_to_the_flips_and_to_the_whole_change(answers: list[tuple[int, int, int]]) -> None:
    expected, pick, teacher = (np.array(column) for column in zip(*answers, strict=True))
    flips = count_flips(expected, pick, teacher)
    classes = class_changes(expected, pick, teacher, ["a", "b", "c", "d"])
    whole = difference(*(Scores("accuracy", (a == expected).astype(float)[:, None]) for a in (pick, teacher)))
    assert sum(c.texts for c in classes) == flips.texts == len(answers)
    assert sum(c.lost for c in classes) == flips.lost
    assert sum(c.gained for c in classes) == flips.gained
    assert sum(c.change * c.texts for c in classes) == pytest.approx(whole.value * len(answers))
    assert flips.lost + flips.gained + flips.moved == sum(p != t for _, p, t in answers)
    assert all(c.low <= c.change + 1e-12 and c.change - 1e-12 <= c.high for c in classes)
    assert [c.change for c in classes] == sorted(c.change for c in classes)


@given(ANSWERS)
def test_a_model_against_itself_changes_nothing(answers: list[tuple[int, int, int]]) -> None:
    expected, pick, _ = (np.array(column) for column in zip(*answers, strict=True))
    flips = count_flips(expected, pick, pick)
    assert (flips.lost, flips.gained, flips.moved) == (0, 0, 0)
    for change in class_changes(expected, pick, pick, ["a", "b", "c", "d"]):
        assert (change.change, change.low, change.high) == (0, 0, 0)
