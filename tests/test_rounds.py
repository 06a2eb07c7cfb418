"""What rounds say: intervals, ratios that a drift does not touch, texts dealt fairly, a line over depth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebert.judging.rounds import deal, depth_line, paired_ratio, round_interval


@given(st.lists(st.floats(0.1, 50), min_size=20, max_size=60))
@settings(max_examples=10)
def test_an_interval_brackets_its_percentile(values: list[float]) -> None:
    low, high = round_interval([values[:10], values[10:]], 50)
    assert min(values) <= low <= high <= max(values)


def test_the_luck_of_a_round_widens_the_interval() -> None:
    generator = np.random.default_rng(0)
    calm = [list(10 + generator.normal(0, 0.1, 40)) for _ in range(10)]
    moody = [list(10 + shift + generator.normal(0, 0.1, 40)) for shift in np.linspace(-3, 3, 10)]
    (a, b), (c, d) = round_interval(calm, 50), round_interval(moody, 50)
    assert d - c > 10 * (b - a)


def test_a_drift_of_the_machine_cancels_out_of_a_ratio() -> None:
    generator = np.random.default_rng(0)
    # The machine gets three times as slow while ours stays 1.5 times the reference.
    drift = np.linspace(1, 3, 20)
    reference = drift * (2 + generator.normal(0, 0.01, 20))
    ours = drift * (3 + generator.normal(0, 0.01, 20))
    ratio = paired_ratio(list(ours), list(reference))
    assert ratio.value == pytest.approx(1.5, rel=0.01)
    assert ratio.high - ratio.low < 0.02
    assert ratio.low <= ratio.value <= ratio.high


@given(st.lists(st.floats(0.5, 50), min_size=2, max_size=30))
def test_nothing_is_exactly_as_fast_as_itself(rounds: list[float]) -> None:
    ratio = paired_ratio(rounds, rounds)
    assert (ratio.value, ratio.low, ratio.high) == (1.0, 1.0, 1.0)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=80), st.integers(1, 20), st.integers(0, 5))
def test_every_round_gets_short_and_long_ones(lengths: list[int], rounds: int, seed: int) -> None:
    places = list(range(len(lengths)))
    hands = deal(places, lengths, rounds, seed)
    assert sorted(place for hand in hands for place in hand) == places
    assert len(hands) == min(rounds, len(lengths))
    sizes = [len(hand) for hand in hands]
    assert max(sizes) - min(sizes) <= 1
    # The k-th shortest of every round comes from the same slice of the lengths.
    by_length = sorted(lengths)
    for hand in hands:
        for k, length in enumerate(sorted(lengths[place] for place in hand)):
            group = by_length[k * len(hands) : (k + 1) * len(hands)]
            assert group[0] <= length <= group[-1]
    assert deal(places, lengths, rounds, seed) == hands


def test_a_line_over_depth_is_found_again() -> None:
    line = depth_line([1, 2, 4, 6], [0.5 + 1.5 * n for n in (1, 2, 4, 6)])
    assert line is not None
    assert (line.a, line.b, line.worst) == pytest.approx((0.5, 1.5, 0), abs=1e-9)
    assert depth_line([1, 6], [2.0, 9.0]) is None
