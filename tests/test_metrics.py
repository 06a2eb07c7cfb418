from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edgebert.judging.metrics import Scores, accuracy, agreement, cosine_rows, difference, spearman

HITS = st.lists(st.booleans(), min_size=2, max_size=60)


def hits(values: list[bool]) -> Scores:
    return accuracy(["a" if right else "b" for right in values], ["a"] * len(values))


@given(HITS)
@settings(max_examples=30, deadline=None)
def test_accuracy_is_the_share_of_hits_within_its_interval(values: list[bool]) -> None:
    metric = hits(values).metric_value()
    assert metric.value == pytest.approx(sum(values) / len(values))
    assert 0 <= metric.low <= metric.value <= metric.high <= 1


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=40))
@settings(max_examples=50, deadline=None)
def test_spearman_equals_scipy_ties_included(pairs: list[tuple[int, int]]) -> None:
    first, second = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert spearman(first, list(second)).metric_value().value == 0
        return
    expected = stats.spearmanr(first, second).statistic
    assert spearman(first, list(second)).metric_value().value == pytest.approx(expected, abs=1e-12)


@given(HITS)
@settings(max_examples=20, deadline=None)
def test_a_model_differs_from_itself_by_nothing(values: list[bool]) -> None:
    gap = difference(hits(values), hits(values))
    assert (gap.value, gap.low, gap.high) == (0, 0, 0)


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    base = [i % 10 != 0 for i in range(400)]
    worse = [right and i % 50 != 1 for i, right in enumerate(base)]
    gap = difference(hits(base), hits(worse))
    assert 0 < gap.low < gap.value < gap.high
    assert gap.high - gap.low < hits(base).metric_value().high - hits(base).metric_value().low


def test_scores_of_other_texts_are_not_paired() -> None:
    with pytest.raises(ValueError, match="paired"):
        difference(hits([True, False]), hits([True, False, True]))


def test_cosine_of_rows() -> None:
    rows = cosine_rows(np.array([[1.0, 0], [1, 1], [0, 0]]), np.array([[0.0, 2], [3, 3], [0, 0]]))
    np.testing.assert_allclose(rows, [0, 1, 1])
    assert agreement(np.eye(3), np.eye(3)).metric_value().value == 1
