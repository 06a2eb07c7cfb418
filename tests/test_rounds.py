"""What rounds say: intervals, ratios that a drift does not touch, texts dealt fairly, a line over depth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebert.judging.rounds import MOST_SHARING, deal, depth_line, paired_ratio, repeat_interval, together


@given(st.lists(st.floats(0.1, 50), min_size=20, max_size=60))
@settings(max_examples=10)
def test_an_interval_brackets_its_percentile(values: list[float]) -> None:
    low, high = repeat_interval([[values[:10]], [values[10:]]], 50)
    assert 0 <= low <= np.percentile(values, 50) <= high


def test_the_luck_of_a_round_and_of_a_process_widens_the_interval() -> None:
    generator = np.random.default_rng(0)
    luck = np.repeat(np.linspace(-3, 3, 5), 4)
    calm, by_sitting = [list(10 + generator.normal(0, 0.1, 20)) for _ in luck], [10 + shift for shift in luck]
    moody = [[middle + float(noise) for noise in generator.normal(0, 0.1, 20)] for middle in by_sitting]
    width = {
        name: high - low
        for name, rounds in (("calm", calm), ("moody", moody))
        for low, high in [repeat_interval([rounds[i : i + 4] for i in range(0, len(rounds), 4)], 50)]
    }
    assert width["moody"] > 10 * width["calm"]


def test_a_repeat_falls_into_the_interval_in_95_of_100_cases() -> None:
    generator = np.random.default_rng(1)

    def measured() -> list[list[list[float]]]:
        return [
            [
                list(generator.lognormal(1.0 + sitting + moment, 0.3, 20))
                for moment in generator.normal(0, 0.02, 4)
            ]
            for sitting in generator.normal(0, 0.03, 5)
        ]  # fmt: skip

    for percentile in (50, 95):
        inside = 0
        for seed in range(60):
            low, high = repeat_interval(measured(), percentile, seed)
            again = np.concatenate([values for sitting in measured() for values in sitting])
            inside += low <= float(np.percentile(again, percentile)) <= high
        # Five sittings tell their own spread only roughly.
        assert inside >= 52


@given(st.lists(st.floats(0, 2), min_size=1, max_size=30))
def test_candidates_are_compared_by_rounds_in_which_sharing_gained(sharing: list[float]) -> None:
    kept = together(sharing)
    gained = [place for place, cost in enumerate(sharing) if cost <= MOST_SHARING]
    assert kept == (gained if len(gained) >= 5 else list(range(len(sharing))))


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
