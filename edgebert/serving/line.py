"""Who is answered next, and together with whom: the waiting line of a batcher. No threads, no clock of its own.

Requests are ordered by when they are *due*: their arrival plus a few times their own cost, so that a short text
passes a long one that came a moment before, and no text is passed for ever. A batch is the request due first and
others of similar length in their order, as many as the tokens allow, padding included.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from edgebert.serving.tokens import Tokens

# How many times its own cost a request may be made to wait for requests that came after it.
PATIENCE = 10.0
# Tokens that texts of a batch may differ by from the first: padding by more costs more than a call saves.
SLACK = 4


@dataclass(frozen=True)
class Request:
    """One text that waits. Times are seconds of one monotonic clock; ``deadline`` is when the answer is of no use.

    ``length`` is in tokens: all windows of a text that is read in several.
    """

    tokens: Tokens
    length: int
    arrived: float
    due: float
    deadline: float | None
    future: Future[Any]

    def late(self, now: float) -> bool:
        """Whether its deadline has passed."""
        return self.deadline is not None and now > self.deadline


class Line:
    """Requests in the order in which they are due."""

    def __init__(self) -> None:
        self._requests: list[Request] = []

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)

    @property
    def tokens(self) -> int:
        """Tokens of all that wait."""
        return sum(request.length for request in self._requests)

    def put(self, request: Request) -> None:
        """Let one more wait."""
        place = len(self._requests)
        # From the end: most are due after those that came before.
        while place and self._requests[place - 1].due > request.due:
            place -= 1
        self._requests.insert(place, request)

    def weed(self, now: float) -> list[Request]:
        """Remove, and return, those that nobody waits for any more: cancelled, or late."""
        gone: list[Request] = []
        waiting: list[Request] = []
        for request in self._requests:
            (gone if request.late(now) or request.future.cancelled() else waiting).append(request)
        self._requests = waiting
        return gone

    def take(self, max_tokens: int) -> list[Request]:
        """Remove, and return, the next batch: at most ``max_tokens`` with padding, but at least one request."""
        first = self._requests[0]
        batch, longest = [first], first.length
        for request in self._requests[1:]:
            padded = max(longest, request.length) * (len(batch) + 1)
            if abs(request.length - first.length) <= SLACK and padded <= max_tokens:
                batch.append(request)
                longest = max(longest, request.length)
        taken = set(map(id, batch))
        self._requests = [request for request in self._requests if id(request) not in taken]
        return batch
