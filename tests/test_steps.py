"""The next millisecond either way, over candidates whose numbers are set by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgebert.choosing.candidate import Candidate
from edgebert.choosing.outcome import depth_lines
from edgebert.choosing.steps import Clock, next_steps
from edgebert.judging.latency import Latency
from edgebert.judging.metrics import Metric, Scores, difference

CLOCK = Clock("p50", 4.5)


def candidate(layers: int, p50: float, value: float | None, precision: str = "fp32") -> Candidate:
    latency = Latency(
        p50=p50, p50_low=0.9 * p50, p50_high=1.1 * p50, p95=2 * p50, p95_low=1.8 * p50, p95_high=2.2 * p50,
        tokenize_p50=0.1, texts_per_s=1.0, samples=400, batch_size=1, seq_len=None, threads=1, cold_start_ms=1.0,
        memory_bytes=1,
    )  # fmt: skip
    test = None if value is None else Metric("accuracy", value, value - 0.01, value + 0.01)
    return Candidate(
        layers, "cpu", precision, tuple(range(layers)), trained=test is not None, latency=latency, test=test
    )


PICK = candidate(3, 3.0, 0.80)
CROWD = [
    candidate(1, 1.0, 0.60),
    candidate(2, 2.0, 0.75),
    candidate(2, 2.5, 0.70, "int8"),  # slower and worse than the one before
    PICK,
    candidate(3, 3.5, 0.79, "int8"),  # slower and worse than the pick
    candidate(4, 4.0, None),
    candidate(5, 5.0, 0.90),
    candidate(6, 6.0, 0.95),
]


def test_one_step_each_way_along_the_front() -> None:
    faster, better = next_steps(CROWD, PICK, {}, CLOCK)
    assert (faster.way, faster.candidate.layers, faster.ms, faster.needs_ms) == ("faster", 2, -1.0, None)
    assert faster.gain == pytest.approx(-0.05)
    assert faster.points_per_ms == pytest.approx(5.0)
    assert (better.way, better.candidate.layers, better.ms) == ("better", 5, 2.0)
    assert better.needs_ms == pytest.approx(5.5)
    assert better.gain == pytest.approx(0.10)
    assert better.points_per_ms == pytest.approx(5.0)
    assert better.low is None


def test_an_untrained_one_over_the_limit_and_before_the_better_one_is_told() -> None:
    steps = next_steps(CROWD, PICK, {}, replace(CLOCK, limit_ms=3.4))
    assert [(step.way, step.candidate.layers) for step in steps] == [("faster", 2), ("better", 5), ("untrained", 4)]
    assert [steps[2].ms, steps[2].needs_ms] == pytest.approx([1.0, 4.4])
    assert steps[2].gain is steps[2].points_per_ms is None


def test_nothing_shallower_counts_as_bought() -> None:
    wide = [PICK, candidate(2, 3.9, None)]
    assert next_steps(wide, PICK, {}, replace(CLOCK, limit_ms=3.4)) == ()


def test_the_gain_has_the_paired_interval_where_scores_allow() -> None:
    generator = np.random.default_rng(1)
    hits = [Scores("accuracy", (generator.random((200, 1)) < share).astype(float)) for share in (0.6, 0.8)]
    scores = {CROWD[1].key: hits[0], PICK.key: hits[1]}
    faster, better = next_steps(CROWD, PICK, scores, CLOCK)
    gap = difference(*hits)
    assert (faster.low, faster.high) == (gap.low, gap.high)
    assert (better.low, better.high) == (None, None)


def test_a_pick_that_test_does_not_favour_still_has_both_steps() -> None:
    odd = candidate(4, 4.0, 0.70)
    faster, better = next_steps([*CROWD[:5], *CROWD[6:], odd], odd, {}, CLOCK)
    assert [faster.candidate.layers, faster.gain] == pytest.approx([3, 0.10])
    assert faster.points_per_ms is None
    assert better.candidate.layers == 5


def test_without_numbers_there_are_no_steps() -> None:
    assert next_steps(CROWD, replace(PICK, test=None), {}, CLOCK) == ()
    assert next_steps(CROWD, replace(PICK, latency=None), {}, CLOCK) == ()
    failed = [replace(c, failed="no memory") for c in CROWD if c != PICK]
    assert next_steps([PICK, *failed], PICK, {}, CLOCK) == ()


def test_percentiles_are_not_mixed() -> None:
    assert [step.ms for step in next_steps(CROWD, PICK, {}, Clock("p95", None))] == [-2.0, 4.0]


def test_the_line_over_depth_is_of_the_run_that_decides_where_that_has_three_depths() -> None:
    # The untrained were measured when the machine was twice as fast.
    untrained = [candidate(layers, 0.5 + 1.0 * layers, None) for layers in (1, 2, 3, 4)]
    judged = [candidate(layers, 1.0 + 2.0 * layers, 0.8) for layers in (1, 2, 4)]
    (line,) = depth_lines(judged, untrained)
    assert (line["a"], line["b"]) == pytest.approx((1.0, 2.0))
    (line,) = depth_lines(judged[:2], untrained)
    assert (line["a"], line["b"]) == pytest.approx((0.5, 1.0))
    assert depth_lines([], untrained[:2]) == ()
