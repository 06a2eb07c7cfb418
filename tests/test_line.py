"""The waiting line: who is next, and with whom."""

from __future__ import annotations

from concurrent.futures import Future

from hypothesis import given
from hypothesis import strategies as st

from edgebert.serving.line import PATIENCE, SLACK, Line, Request
from edgebert.serving.tokens import Tokens

COST = 1e-4


def request(length: int, arrived: float = 0.0, deadline: float | None = None) -> Request:
    return Request(
        Tokens([0] * length, [], False), length, arrived, arrived + PATIENCE * COST * length, deadline, Future()
    )


def line_of(requests: list[Request]) -> Line:
    line = Line()
    for one in requests:
        line.put(one)
    return line


REQUESTS = st.lists(st.builds(request, st.integers(2, 512), st.floats(0, 10)), min_size=1, max_size=40)


@given(REQUESTS, st.integers(1, 4096))
def test_everybody_is_answered_once_and_no_batch_is_too_large(requests: list[Request], most: int) -> None:
    line = line_of(requests)
    batches = []
    while len(line):
        first = next(iter(line))
        batch = line.take(most)
        batches.append(batch)
        # Who is due first is never passed over.
        assert batch[0] is first
        assert len(batch) == 1 or len(batch) * max(one.length for one in batch) <= most
    assert sorted(id(one) for batch in batches for one in batch) == sorted(map(id, requests))


@given(REQUESTS)
def test_little_of_a_batch_is_padding(requests: list[Request]) -> None:
    line = line_of(requests)
    while len(line):
        first, *others = (one.length for one in line.take(10_000))
        assert all(abs(length - first) <= SLACK for length in others)


@given(REQUESTS)
def test_the_line_is_in_the_order_in_which_they_are_due(requests: list[Request]) -> None:
    assert [one.due for one in line_of(requests)] == sorted(one.due for one in requests)


def test_a_short_text_passes_a_long_one_but_not_for_ever() -> None:
    long = request(500, arrived=0.0)
    soon, later = request(5, arrived=0.1), request(5, arrived=PATIENCE * COST * 500 + 0.1)
    line = line_of([long, soon, later])
    assert [line.take(5) for _ in range(3)] == [[soon], [long], [later]]


def test_of_equal_ones_who_came_first_is_first() -> None:
    requests = [request(9, arrived=1.0) for _ in range(5)]
    assert list(line_of(requests)) == requests


def test_the_late_and_the_cancelled_are_weeded_out() -> None:
    waiting, late, cancelled = request(5, deadline=2.0), request(5, deadline=0.5), request(5)
    cancelled.future.cancel()
    line = line_of([waiting, late, cancelled])
    assert line.weed(1.0) == [late, cancelled]
    assert list(line) == [waiting]
    assert line.tokens == 5
    assert line.weed(1.0) == []
