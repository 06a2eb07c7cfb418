"""Metrics: equal to scipy's, and intervals that hold what they promise."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgebert.judging.metrics import Scores, accuracy, agreement, cosine_rows, difference, resample, spearman

# Few different values, so that ties are common; and plain numbers, where they are not.
RATINGS = st.sampled_from([0.0, 0.5, 1.0, 2.5]) | st.floats(-5, 5)
PAIRS = st.lists(st.tuples(RATINGS, RATINGS), min_size=2, max_size=30)
HITS = st.lists(st.booleans(), min_size=1, max_size=60)


def hits(values: list[bool]) -> Scores:
    return accuracy(["yes"] * len(values), ["yes" if value else "no" for value in values])


@settings(max_examples=10)
@given(PAIRS)
def test_spearman_equals_scipys(pairs: list[tuple[float, float]]) -> None:
    x, y = np.array(pairs).T
    assume(len(set(x)) > 1)
    assume(len(set(y)) > 1)
    expected = scipy.stats.spearmanr(x, y).statistic
    assert spearman(x, y.tolist()).metric_value().value == pytest.approx(expected, abs=1e-9)


@settings(max_examples=10)
@given(PAIRS)
def test_spearman_depends_on_ranks_alone(pairs: list[tuple[float, float]]) -> None:
    x, y = np.round(np.array(pairs), 3).T
    plain, bent = spearman(x, y.tolist()), spearman(np.exp(x), (3 * y - 1).tolist())
    assert bent.metric_value() == plain.metric_value()


def test_spearman_of_constants_is_zero() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric = spearman(np.ones(5), [1.0, 2.0, 3.0, 4.0, 5.0]).metric_value()
    assert (metric.value, metric.low, metric.high) == (0.0, 0.0, 0.0)


@given(HITS)
def test_accuracy_is_the_share_of_hits(values: list[bool]) -> None:
    metric = hits(values).metric_value()
    assert metric.name == "accuracy"
    assert metric.value == pytest.approx(sum(values) / len(values))
    assert 0 <= metric.low <= metric.value + 1e-12
    assert metric.value - 1e-12 <= metric.high <= 1
    assert (metric.low == metric.high) == (len(set(values)) == 1 or len(values) == 1)


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        metric = hits((generator.random(200) < 0.8).tolist()).metric_value()
        covered += metric.low <= 0.8 <= metric.high
    # 95 of 100 expected; fewer than 88 or all of a hundred would be a chance of one in a hundred.
    assert 88 <= covered <= 99


def test_an_interval_has_the_width_of_theory() -> None:
    metric = hits([True] * 800 + [False] * 200).metric_value()
    expected = 2 * 1.96 * np.sqrt(0.8 * 0.2 / 1000)
    assert metric.high - metric.low == pytest.approx(expected, rel=0.15)


def test_intervals_repeat_themselves() -> None:
    scores = hits([True, False, True] * 20)
    assert scores.metric_value() == scores.metric_value()
    mean = lambda rows: rows[..., 0].mean(axis=-1)  # noqa: E731
    assert not np.array_equal(resample(scores.rows, mean, seed=0), resample(scores.rows, mean, seed=1))


@given(HITS)
def test_equal_scores_differ_by_nothing(values: list[bool]) -> None:
    gap = difference(hits(values), hits(values))
    assert (gap.value, gap.low, gap.high) == (0.0, 0.0, 0.0)


@settings(max_examples=10)
@given(PAIRS)
def test_equal_correlations_differ_by_nothing(pairs: list[tuple[float, float]]) -> None:
    x, y = np.array(pairs).T
    gap = difference(spearman(x, y.tolist()), spearman(x, y.tolist()))
    assert (gap.value, gap.low, gap.high) == (0.0, 0.0, 0.0)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_a_difference_is_antisymmetric(values: list[tuple[bool, bool]]) -> None:
    first, second = (hits([pair[i] for pair in values]) for i in (0, 1))
    there, back = difference(first, second), difference(second, first)
    assert there.value == pytest.approx(first.metric_value().value - second.metric_value().value)
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))


def test_pairing_narrows_the_interval() -> None:
    # Two models that fail on the same texts, but for ten of a thousand.
    first = [True] * 800 + [False] * 200
    second = [True] * 790 + [False] * 210
    paired = difference(hits(first), hits(second))
    alone = hits(first).metric_value()
    assert paired.value == pytest.approx(0.01)
    assert 0 < paired.low < paired.high < 0.02
    assert paired.high - paired.low < (alone.high - alone.low) / 3


def test_unlike_scores_have_no_difference() -> None:
    rated = spearman(np.array([1.0, 2.0]), [1.0, 2.0])
    for first, second in [(hits([True]), hits([True, False])), (hits([True, False]), rated)]:
        with pytest.raises(ValueError, match="one metric and one set of texts"):
            difference(first, second)


def test_labels_must_pair_up() -> None:
    with pytest.raises(ValueError, match="longer"):
        accuracy(["a"], ["a", "b"])


def test_cosines() -> None:
    first = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [2.0, 0.0], [0.0, 0.0]], dtype=np.float32)
    second = np.array([[0.0, 3.0], [2.0, 2.0], [0.0, 0.0], [-1.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    # A vector of zeros points nowhere: taken for equal, also with one that does.
    assert cosine_rows(first, second) == pytest.approx([0.0, 1.0, 1.0, -1.0, 1.0])


def test_agreement_is_the_mean_cosine() -> None:
    vectors, reference = np.eye(2), np.array([[1.0, 0.0], [1.0, 0.0]])
    metric = agreement(vectors, reference).metric_value()
    assert metric.name == "cosine"
    assert metric.value == pytest.approx(0.5)
    assert (metric.low, metric.high) == (0.0, 1.0)
