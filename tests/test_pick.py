"""Decisions by worked examples and by what must hold of all of them: depths to train, and the pick."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgebert.choosing.budget import Budget, Limit, parse_budget
from edgebert.choosing.candidate import Candidate
from edgebert.choosing.pick import Key, choose, depths_to_train, points_lost
from edgebert.judging.latency import Latency
from edgebert.judging.metrics import Metric, Scores, difference

FOUR_MS = parse_budget("p50=4ms")
TEXTS = 200


def latency(low: float, high: float) -> Latency:
    return Latency(
        p50=(low + high) / 2, p50_low=low, p50_high=high, p95=None, p95_low=None, p95_high=None,
        tokenize_p50=0.1, texts_per_s=100.0, samples=100, batch_size=1, seq_len=None, threads=1,
        cold_start_ms=50.0, memory_bytes=10**8,
    )  # fmt: skip


def untrained(layers: int, precision: str, low: float, high: float) -> Candidate:
    kept = tuple(range(layers))
    return Candidate(layers, "cpu", precision, kept, trained=False, bytes=layers, latency=latency(low, high))


def trained(layers: int, ms: float, hits: int, precision: str = "fp32", high: float | None = None) -> Candidate:
    """A candidate that got ``hits`` of the dev texts right; test says the opposite, for it must not count."""
    share = hits / TEXTS
    measured = untrained(layers, precision, ms, ms)
    if high is not None:
        measured = replace(measured, latency=replace(latency(ms, ms), p50_high=high))
    dev = Metric("accuracy", share, share - 0.1, share + 0.1)
    return replace(measured, trained=True, dev=dev, test=replace(dev, value=1 - share))


def nested(candidates: Sequence[Candidate]) -> dict[Key, Scores]:
    """Scores where a better candidate is right wherever a worse one is: small differences are sure ones."""
    return {c.key: hits_at(range(round(c.dev.value * TEXTS))) for c in candidates if c.dev}


def hits_at(right: Sequence[int]) -> Scores:
    rows = np.zeros((TEXTS, 1))
    rows[list(right)] = 1.0
    return Scores("accuracy", rows)


# Ways, each depth's [low, high] p50 in ms for depths 1, 2, 3, ... -> the depths to train for 4 ms.
DEPTHS: dict[str, tuple[dict[str, list[tuple[float, float]]], tuple[int, ...]]] = {
    "the deepest and its shallower neighbour": (
        {"fp32": [(0.9, 1.1), (1.9, 2.1), (2.9, 3.1), (4.9, 5.1), (5.9, 6.1)]},
        (3, 2),
    ),
    "all fit: the deepest two": ({"fp32": [(1, 1), (2, 2), (3, 3)]}, (3, 2)),
    "only the shallowest fits: it has no neighbour": ({"fp32": [(3, 3.5), (5, 6)]}, (1,)),
    "just at the limit": ({"fp32": [(1, 1), (4.0, 4.0), (5, 5)]}, (2, 1)),
    "the deepest of each way": (
        {"fp32": [(2, 2), (5, 5), (8, 8), (9, 9)], "int8": [(1, 1), (2, 2), (3, 3), (5, 5)]},
        (3, 2, 1),
    ),
    "a deeper one whose interval straddles the limit": (
        {"fp32": [(1, 1), (2, 2), (3, 3), (3.9, 4.2), (5, 5)]},
        (4, 3, 2),
    ),
    "of two deeper ones that straddle, the shallower": (
        {"fp32": [(1, 1), (2, 2), (3.8, 4.1), (3.9, 4.2), (5, 5)]},
        (3, 2, 1),
    ),
    "one that straddles, but not deeper than what fits": (
        {"fp32": [(1, 1), (3.9, 4.2), (6, 6), (8, 8)], "int8": [(1, 1), (2, 2), (3, 3), (4.5, 5)]},
        (3, 2, 1),
    ),
    "straddling alone is not enough": ({"fp32": [(3.9, 4.2), (7, 8)]}, ()),
    "nothing fits": ({"fp32": [(5, 6), (7, 8)], "int8": [(4.1, 4.2), (5, 5)]}, ()),
}


@pytest.mark.parametrize(("ways", "expected"), DEPTHS.values(), ids=DEPTHS)
@pytest.mark.parametrize("turn", [1, -1])
def test_depths_worth_training(
    ways: dict[str, list[tuple[float, float]]], expected: tuple[int, ...], turn: int
) -> None:
    measured = [
        untrained(layers, precision, *interval)
        for precision, intervals in ways.items()
        for layers, interval in enumerate(intervals, start=1)
    ]
    assert depths_to_train(measured[::turn], FOUR_MS) == expected


def test_the_neighbour_is_the_next_depth_on_offer() -> None:
    measured = [untrained(layers, "fp32", layers / 2, layers / 2) for layers in (1, 3, 6, 12)]
    assert depths_to_train(measured, FOUR_MS) == (6, 3)


def test_what_could_not_be_measured_is_not_trained() -> None:
    broken = Candidate(3, "cpu", "fp32", (0, 1, 2), trained=False, failed="no memory")
    assert depths_to_train([broken], FOUR_MS) == ()
    assert depths_to_train([broken, untrained(2, "fp32", 1, 1)], FOUR_MS) == (2,)
    assert depths_to_train([], FOUR_MS) == ()


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.sampled_from(["fp32", "int8"]), st.floats(0.5, 8), st.floats(0, 2)),
        unique_by=lambda c: c[:2],
    )
)
def test_of_every_way_the_deepest_that_fits_is_trained(ways: list[tuple[int, str, float, float]]) -> None:
    measured = [untrained(layers, name, low, low + width) for layers, name, low, width in ways]
    depths = depths_to_train(measured, FOUR_MS)
    assert list(depths) == sorted(set(depths), reverse=True)
    fitting = [c for c in measured if c.latency and FOUR_MS.fits(c)]
    assert bool(depths) == bool(fitting)
    for name in {c.precision for c in fitting}:
        assert max(c.layers for c in fitting if c.precision == name) in depths
    # Beyond what fits, only what may fit is trained, and never more than one such depth.
    may_fit = {c.layers for c in measured if c.latency and FOUR_MS.may_fit(c)}
    deeper = {layers for layers in depths if layers > max((c.layers for c in fitting), default=0)}
    assert deeper <= may_fit
    assert len(deeper) <= 1


def test_the_most_accurate_that_fits_by_its_upper_bound_is_picked() -> None:
    deep = trained(6, 3.9, 190, high=4.01)
    candidates = [deep, trained(4, 3.0, 180), trained(2, 1.0, 100)]
    verdict = choose(candidates, nested(candidates), deep, FOUR_MS, None)
    assert verdict.pick == candidates[1]
    assert verdict.reason == "the most accurate on dev within p50=4ms, upper ends of intervals counted"
    assert verdict.ties == ()
    assert verdict.nearest[0] == (deep, "p50 up to 4.01 ms, 0% over the budget")
    assert verdict.nearest[1][0] == candidates[2]
    assert verdict.nearest[1][1] == "40.00 points worse on dev at 0.33 times the latency"


def test_a_tie_goes_to_the_faster_and_is_told() -> None:
    # 181 and 180 right, on other texts: nobody can tell which is better.
    slow, fast = trained(4, 3.0, 181), trained(3, 2.0, 180)
    scores = {slow.key: hits_at(range(181)), fast.key: hits_at(range(20, 200))}
    verdict = choose([slow, fast], scores, None, FOUR_MS, None)
    assert verdict.pick == fast
    assert verdict.ties == (slow.name,)
    assert verdict.reason.startswith("as accurate as 4 layers fp32 on cpu within the noise of dev")
    assert verdict.nearest == ((slow, "0.50 points better on dev, within the noise, at 1.50 times the latency"),)


def test_ties_are_judged_in_pairs_not_by_overlapping_intervals() -> None:
    # Both intervals hold both values, but wherever the fast one is right, the slow one is too.
    slow, fast = trained(4, 3.0, 185), trained(3, 2.0, 175)
    verdict = choose([slow, fast], nested([slow, fast]), None, FOUR_MS, None)
    assert verdict.pick == slow
    assert verdict.ties == ()


def test_equal_accuracy_goes_to_the_faster_even_without_scores() -> None:
    slow, fast = trained(4, 3.0, 180), trained(3, 2.0, 180)
    assert choose([slow, fast], {}, None, FOUR_MS, None).pick == fast
    better = trained(4, 3.0, 181)
    assert choose([better, fast], {}, None, FOUR_MS, None).pick == better


def test_a_tie_that_a_third_beats_in_both_respects_is_not_picked() -> None:
    # `noisy` errs on other texts than `best`, which makes it a tie; `third` is surely worse than `best`,
    # but better and faster than `noisy`.
    best, noisy, third = trained(4, 3.0, 170), trained(3, 2.0, 160), trained(2, 1.0, 162)
    scores = {best.key: hits_at(range(170)), noisy.key: hits_at(range(40, 200)), third.key: hits_at(range(162))}
    assert (
        difference(scores[best.key], scores[noisy.key]).low <= 0 < difference(scores[best.key], scores[third.key]).low
    )
    verdict = choose([best, noisy, third], scores, None, FOUR_MS, None)
    assert verdict.pick == best


def in_one_run(candidate: Candidate, rounds: Sequence[float]) -> Candidate:
    assert candidate.latency
    return replace(candidate, latency=replace(candidate.latency, rounds=tuple(rounds), run="the same"))


def test_of_equally_fast_ones_the_more_accurate_is_picked_and_the_tie_is_told() -> None:
    # Dev cannot tell them apart, and now one, now the other was faster.
    better = in_one_run(trained(4, 2.02, 181), [2.0, 2.1, 1.9, 2.0, 2.1, 2.0])
    faster = in_one_run(trained(3, 2.0, 180), [2.1, 2.0, 2.0, 1.9, 2.0, 2.1])
    surely_slower = in_one_run(trained(6, 3.0, 179), [3.0, 3.1, 2.9, 3.0, 3.1, 3.0])
    candidates = [better, faster, surely_slower]
    scores = {
        better.key: hits_at(range(181)),
        faster.key: hits_at(range(20, 200)),
        surely_slower.key: hits_at(range(21, 200)),
    }
    verdict = choose(candidates, scores, None, FOUR_MS, None)
    assert verdict.pick == better
    assert verdict.ties == (faster.name, surely_slower.name)
    assert verdict.as_fast == (faster.name,)
    for_drop = choose(candidates, scores, better, None, 5.0)
    assert (for_drop.pick, for_drop.as_fast) == (better, (faster.name,))


def test_speeds_of_different_runs_are_never_called_a_tie() -> None:
    one = in_one_run(trained(4, 2.02, 181), [2.0, 2.1, 1.9])
    other = trained(3, 2.0, 180)
    scores = {one.key: hits_at(range(181)), other.key: hits_at(range(20, 200))}
    verdict = choose([one, other], scores, None, FOUR_MS, None)
    assert (verdict.pick, verdict.as_fast) == (other, ())


@pytest.mark.parametrize(("points", "layers"), [(0.0, 6), (2.5, 4), (5.0, 3), (100.0, 1)])
def test_a_drop_alone_picks_the_fastest_within_it(points: float, layers: int) -> None:
    candidates = [trained(n, n * 1.0, hits) for n, hits in ((6, 190), (4, 185), (3, 180), (1, 100))]
    verdict = choose(candidates, nested(candidates), candidates[0], None, points)
    assert verdict.pick
    assert verdict.pick.layers == layers
    assert verdict.reason == f"the fastest within {points:g} points of the teacher on dev"


def test_without_a_judged_teacher_no_loss_is_allowed() -> None:
    candidates = [trained(2, 2.0, 180), trained(1, 1.0, 20)]
    for teacher in (None, Candidate(6, "cpu", "fp32", tuple(range(6)), trained=True, failed="parity failed")):
        verdict = choose(candidates, nested(candidates), teacher, FOUR_MS, 1.0)
        assert verdict.pick is None
        assert verdict.nearest[0][1] == "its loss is not known: the teacher was not judged"


def test_noise_is_only_spoken_of_where_it_was_tested() -> None:
    candidates = [trained(n, n * 1.0, hits) for n, hits in ((6, 190), (1, 30))]
    verdict = choose(candidates, nested(candidates), candidates[0], None, 100.0)
    assert verdict.nearest == ((candidates[0], "80.00 points better on dev at 6.00 times the latency"),)


def test_a_budget_and_a_drop_both_bind() -> None:
    candidates = [trained(n, n * 1.0, hits) for n, hits in ((6, 190), (3, 180), (1, 100))]
    scores, teacher = nested(candidates), candidates[0]
    both = choose(candidates, scores, teacher, FOUR_MS, 5.0)
    assert both.pick == candidates[1]
    assert {c.layers: why for c, why in both.nearest} == {
        6: "p50 up to 6 ms, 50% over the budget",
        1: "loses 45.00 points on dev, 5 are allowed",
    }
    neither = choose(candidates, scores, teacher, FOUR_MS, 4.0)
    assert neither.pick is None
    assert neither.reason == "nothing fits p50=4ms and a drop of 4 points"


def test_where_nothing_fits_the_nearest_misses_are_told() -> None:
    candidates = [trained(n, n * 10.0, 150 + n) for n in (4, 3, 2, 1)]
    verdict = choose(candidates, nested(candidates), None, FOUR_MS, None)
    assert verdict.pick is None
    assert verdict.reason == "nothing fits p50=4ms"
    assert [c.layers for c, _ in verdict.nearest] == [1, 2, 3]
    assert verdict.nearest[0][1] == "p50 up to 10 ms, 150% over the budget"
    for_drop = choose(candidates, nested(candidates), trained(6, 9.0, 200), None, 1.0)
    assert [c.layers for c, _ in for_drop.nearest] == [4, 3, 2]
    assert for_drop.nearest[0][1] == "loses 23.00 points on dev, 1 are allowed"


def test_untrained_candidates_are_misses_but_never_picks() -> None:
    candidates = [untrained(2, "fp32", 1, 1), untrained(3, "fp32", 5, 5)]
    verdict = choose(candidates, {}, None, FOUR_MS, None)
    assert verdict.pick is None
    assert [(c.layers, why) for c, why in verdict.nearest] == [
        (2, "not trained"),
        (3, "p50 up to 5 ms, 25% over the budget"),
    ]
    assert choose([], {}, None, FOUR_MS, None).nearest == ()


def test_an_unknown_percentile_is_told_as_such() -> None:
    verdict = choose([trained(2, 1.0, 100)], {}, None, parse_budget("p95=4ms"), None)
    assert verdict.nearest[0][1] == "p95 is not known: 100 samples are too few"


def test_a_failed_candidate_is_never_picked() -> None:
    good = trained(2, 1.0, 100)
    failed = replace(trained(4, 1.0, 199), failed="parity of int8 failed")
    assert choose([failed, good], nested([failed, good]), None, FOUR_MS, None).pick == good
    assert choose([failed], nested([failed]), None, FOUR_MS, None).pick is None


def test_points_lost() -> None:
    assert points_lost(trained(1, 1.0, 180), trained(6, 1.0, 190)) == pytest.approx(5.0)
    assert points_lost(trained(1, 1.0, 190), trained(6, 1.0, 180)) == pytest.approx(-5.0)
    assert points_lost(untrained(1, "fp32", 1, 1), trained(6, 1.0, 180)) is None
    assert points_lost(trained(1, 1.0, 180), None) is None


@st.composite
def sweeps(draw: st.DrawFn) -> tuple[list[Candidate], dict[Key, Scores]]:
    """Candidates with few distinct latencies and noisy answers, so that ties of all kinds come up."""
    keys = draw(st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["fp32", "int8"])), min_size=1, unique=True))
    found, scores = [], {}
    for layers, precision in keys:
        low, width = draw(st.sampled_from([1.0, 2.0, 3.0, 3.9])), draw(st.sampled_from([0.0, 0.05, 0.5]))
        rows = np.random.default_rng(draw(st.integers(0, 50))).random((30, 1)) < draw(st.floats(0.3, 1.0))
        hits = Scores("accuracy", rows.astype(np.float64))
        c = untrained(layers, precision, low, low + width)
        state = draw(st.sampled_from(["trained", "trained", "trained", "untrained", "failed"]))
        if state != "untrained":
            value = float(rows.mean())
            metric = Metric("accuracy", value, value, value)
            c = replace(c, trained=True, dev=metric, test=metric, failed="x" if state == "failed" else None)
            scores[c.key] = hits
        found.append(c)
    return found, scores


def may_be_picked(c: Candidate, teacher: Candidate | None, budget: Budget | None, drop: float | None) -> bool:
    if not c.trained or c.failed or c.latency is None or c.dev is None:
        return False
    if budget is not None and c.latency.p50_high > budget.limits[0].most:
        return False
    if drop is None:
        return True
    return teacher is not None and teacher.dev is not None and teacher.dev.value - c.dev.value <= drop / 100


def dominates(one: Candidate, other: Candidate) -> bool:
    assert one.dev
    assert one.latency
    assert other.dev
    assert other.latency
    ours, theirs = (one.dev.value, -one.latency.p50), (other.dev.value, -other.latency.p50)
    return ours != theirs and ours[0] >= theirs[0] and ours[1] >= theirs[1]


@settings(max_examples=150, deadline=None)
@given(sweeps(), st.none() | st.sampled_from([1.5, 3.0, 3.9, 4.0, 9.0]), st.none() | st.integers(0, 30))
def test_the_pick_is_allowed_undominated_and_as_good_as_the_best(
    sweep: tuple[list[Candidate], dict[Key, Scores]], limit: float | None, drop: int | None
) -> None:
    assume(limit is not None or drop is not None)
    candidates, scores = sweep
    budget = Budget((Limit("p50", limit),)) if limit is not None else None
    # Points as whole texts of 30, a little more, for a sum of fractions is not exact.
    points = drop / 0.3 + 1e-9 if drop is not None else None
    teacher = max((c for c in candidates if c.dev), key=lambda c: c.layers, default=None)
    verdict = choose(candidates, scores, teacher, budget, points)
    allowed = [c for c in candidates if may_be_picked(c, teacher, budget, points)]
    assert (verdict.pick is None) == (not allowed)
    if verdict.pick is None:
        return
    assert verdict.pick in allowed
    assert not [c for c in allowed if dominates(c, verdict.pick)]
    assert choose(candidates[::-1], scores, teacher, budget, points).pick == verdict.pick
    assert verdict.pick not in [c for c, _ in verdict.nearest]
    if budget is None:
        assert verdict.pick.latency == min((c.latency for c in allowed if c.latency), key=lambda m: m.p50)
    else:
        assert_tied_with_the_best(verdict.pick, allowed, scores)


def assert_tied_with_the_best(pick: Candidate, allowed: Sequence[Candidate], scores: Mapping[Key, Scores]) -> None:
    best = max(allowed, key=lambda c: c.dev.value if c.dev else 0.0)
    assert difference(scores[best.key], scores[pick.key]).low <= 0
