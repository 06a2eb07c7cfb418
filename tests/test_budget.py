"""Budgets: what is read, what is refused, and how what was measured stands against the limits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebert.choosing.budget import Budget, Limit, check_max_drop, parse_budget
from edgebert.choosing.candidate import Candidate
from edgebert.errors import UsageError
from edgebert.judging.latency import Latency

MICROSECONDS = {"us": 1.0, "ms": 1e3, "s": 1e6}


def latency(p50: tuple[float, float], p95: tuple[float, float] | tuple[None, None] = (None, None)) -> Latency:
    """A latency with these intervals; the values themselves stand in the middle."""
    return Latency(
        p50=sum(p50) / 2, p50_low=p50[0], p50_high=p50[1],
        p95=None if p95[0] is None else (p95[0] + p95[1]) / 2, p95_low=p95[0], p95_high=p95[1],
        tokenize_p50=0.1, texts_per_s=100.0, samples=400, batch_size=1, seq_len=None, threads=1,
        cold_start_ms=50.0, memory_bytes=10**8,
    )  # fmt: skip


def candidate(measured: Latency, size: int = 1000) -> Candidate:
    return Candidate(2, "cpu", "fp32", (0, 1), trained=True, bytes=size, latency=measured)


@pytest.mark.parametrize(
    ("text", "quantity", "most"),
    [
        ("p95=10ms", "p95", 10.0),
        ("p50=4ms", "p50", 4.0),
        ("p50=800us", "p50", 0.8),
        ("p95=1s", "p95", 1000.0),
        ("p95=2.5ms", "p95", 2.5),
        ("p95=.5ms", "p95", 0.5),
        ("p95=1e1ms", "p95", 10.0),
        ("p95=1E-1s", "p95", 100.0),
        ("P95=10MS", "p95", 10.0),
        (" p95 = 10 ms ", "p95", 10.0),
        ("p95=10\tms\n", "p95", 10.0),
        ("p95=+10ms", "p95", 10.0),
        ("size=25MB", "size", 25e6),
        ("size=0.5 gb", "size", 0.5e9),
        ("memory=200MB", "memory", 200e6),
        ("memory=1GiB", "memory", 2.0**30),
        ("memory=900kB", "memory", 900e3),
    ],
)
def test_a_budget_is_read(text: str, quantity: str, most: float) -> None:
    (limit,) = parse_budget(text).limits
    assert limit.quantity == quantity
    assert limit.most == pytest.approx(most, rel=1e-12)


def test_several_limits_bind_together() -> None:
    budget = parse_budget("p95=10ms, size=25MB,memory=200MB")
    assert [limit.quantity for limit in budget.limits] == ["p95", "size", "memory"]
    assert str(budget) == "p95=10ms,size=25MB,memory=200MB"
    assert parse_budget(str(budget)) == budget
    assert Budget.from_list(budget.to_list()) == budget
    assert (budget.percentile, parse_budget("size=1MB").percentile) == ("p95", "p50")
    small = candidate(latency((1.0, 2.0), (3.0, 4.0)), size=20_000_000)
    assert budget.fits(small)
    assert budget.objections(small) == []
    large = replace(small, bytes=30_000_000)
    assert not budget.fits(large)
    assert budget.objections(large) == ["size 30 MB, 20% over the budget"]
    hungry = replace(large, latency=replace(latency((1.0, 2.0), (3.0, 12.0)), memory_bytes=250_000_000))
    assert [why.split()[0] for why in budget.objections(hungry)] == ["p95", "size", "memory"]
    assert budget.excess(hungry) == pytest.approx(1.25)


def test_what_was_not_measured_fits_no_limit() -> None:
    unmeasured = Candidate(2, "cpu", "fp32", (0, 1), trained=True)
    for text in ("p50=1s", "p95=1s", "size=1GB", "memory=1GB"):
        budget = parse_budget(text)
        assert not budget.fits(unmeasured)
        assert budget.objections(unmeasured) == [f"{text.partition('=')[0]} is not known"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "unreadable budget"),
        ("10", "unreadable budget"),
        ("10ms", "unreadable budget"),
        ("p95", "unreadable budget"),
        ("p95=10ms,", "unreadable budget"),
        ("p95=10ms,p95=4ms", "p95 is limited twice"),
        ("size=25ms", "unknown unit 'ms'"),
        ("p95=25MB", "unknown unit 'mb'"),
        ("size=25", "no unit"),
        ("memory=-2MB", "must be positive"),
        ("p95=10,5ms", "no unit in 'p95=10'"),
        ("p95<10ms", "unreadable budget"),
        ("p95==10ms", "unreadable budget"),
        ("p99=3ms", "unknown quantity 'p99'"),
        ("mean=3ms", "unknown quantity 'mean'"),
        ("p95=10", "no unit"),
        ("p95=", "no unit"),
        ("p95=10min", "unknown unit 'min'"),
        ("p95=10 fortnights", "unknown unit 'fortnights'"),
        ("p95=nan", "unknown unit"),
        ("p95=inf", "unknown unit"),
        ("p95=nanms", "unknown unit"),
        ("p95=infs", "unknown unit"),
        ("p95=ms", "is no number"),
        ("p95=1.2.3ms", "is no number"),
        ("p95=1_0ms", "unreadable budget"),
        ("p95=0x10ms", "unreadable budget"),
        ("p95=-1ms", "must be positive"),
        ("p95=0ms", "must be positive"),
        ("p95=-0.0ms", "must be positive"),
        ("p95=1e999ms", "must be positive"),
        ("p95=1e-999ms", "must be positive"),
    ],
)
def test_a_budget_that_means_nothing_is_a_usage_error(text: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_budget(text)
    assert caught.value.exit_code == 2
    assert complaint in caught.value.what
    assert caught.value.where == "--budget"
    assert "p95=10ms" in caught.value.remedy


@given(
    st.sampled_from(["p50", "p95"]),
    st.floats(min_value=1e-6, max_value=1e9),
    st.sampled_from(sorted(MICROSECONDS)),
    st.text(" \t", max_size=3),
)
def test_every_positive_number_in_every_unit_is_read(quantity: str, number: float, unit: str, blank: str) -> None:
    budget = parse_budget(f"{blank}{quantity}{blank}={blank}{number!r}{blank}{unit}{blank}")
    (limit,) = budget.limits
    assert limit.quantity == quantity
    assert limit.most * 1e3 == pytest.approx(number * MICROSECONDS[unit], rel=1e-12)
    assert parse_budget(str(budget)).limits[0].most == pytest.approx(limit.most, rel=1e-5)


@given(st.text(max_size=20) | st.from_regex(r"p(50|95)=[-+.0-9a-z]{0,8}", fullmatch=True))
def test_any_text_is_a_positive_limit_or_a_usage_error(text: str) -> None:
    try:
        budget = parse_budget(text)
    except UsageError:
        return
    assert all(0 < limit.most < math.inf for limit in budget.limits)


@pytest.mark.parametrize(
    ("interval", "fits", "may_fit"),
    [
        ((3.0, 4.0), True, True),
        ((4.0, 4.0), True, True),
        ((3.9, 4.000001), False, True),
        ((4.0, 5.0), False, True),
        ((4.000001, 5.0), False, False),
    ],
)
def test_the_upper_end_must_fit_and_the_lower_end_says_whether_it_may(
    interval: tuple[float, float], fits: bool, may_fit: bool
) -> None:
    for budget, measured in (
        (parse_budget("p50=4ms"), latency(interval, (99.0, 99.0))),
        (parse_budget("p95=4ms"), latency((0.1, 0.1), interval)),
    ):
        assert budget.fits(candidate(measured)) is fits
        assert budget.may_fit(candidate(measured)) is may_fit


def test_a_percentile_that_was_not_measured_does_not_fit() -> None:
    budget, few = parse_budget("p95=1e9ms"), candidate(latency((1.0, 1.0)))
    assert not budget.fits(few)
    assert not budget.may_fit(few)
    assert budget.objections(few) == ["p95 is not known: 400 samples are too few"]


@given(st.tuples(st.floats(0, 100), st.floats(0, 100)).map(sorted), st.floats(0.001, 100), st.floats(0.001, 100))
def test_what_fits_a_budget_fits_a_larger_one_and_may_fit_it(ends: list[float], one: float, other: float) -> None:
    measured = candidate(latency((ends[0], ends[1])))
    small, large = (Budget((Limit("p50", most),)) for most in (min(one, other), max(one, other)))
    assert small.fits(measured) <= large.fits(measured)
    assert small.may_fit(measured) <= large.may_fit(measured)
    assert small.fits(measured) <= small.may_fit(measured)


@pytest.mark.parametrize("points", [None, 0.0, 0.5, 100.0])
def test_a_drop_is_points_from_0_to_100(points: float | None) -> None:
    check_max_drop(points)


@pytest.mark.parametrize("points", [-0.1, 100.1, math.nan, math.inf, -math.inf])
def test_another_drop_is_a_usage_error(points: float) -> None:
    with pytest.raises(UsageError, match=r"--max-drop: points from 0 to 100"):
        check_max_drop(points)
