"""The next millisecond: from the pick, one candidate faster, one better, and one that nobody trained.

The first two are the neighbours on the measured front: the most accurate of the faster ones, the fastest of
the more accurate ones. They are judged on test, so they explain the pick: dev has made it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgebert.choosing.candidate import Candidate, Step
from edgebert.choosing.pick import Key
from edgebert.judging.metrics import Scores, difference


@dataclass(frozen=True)
class Clock:
    """What latencies are compared by: a percentile, p50 or p95, and the limit on it where there is one."""

    percentile: str
    limit_ms: float | None

    def ms(self, candidate: Candidate) -> float:
        """The candidate's latency; infinite where it was not measured."""
        if candidate.latency is None:
            return math.inf
        value = candidate.latency.p50 if self.percentile == "p50" else candidate.latency.p95
        return math.inf if value is None else value

    def needs_ms(self, candidate: Candidate) -> float | None:
        """The limit that would admit a candidate which this one does not; None for one that is admitted."""
        if candidate.latency is None or self.limit_ms is None:
            return None
        upper = candidate.latency.p50_high if self.percentile == "p50" else candidate.latency.p95_high
        return upper if upper is not None and upper > self.limit_ms else None


def next_steps(
    candidates: Sequence[Candidate], pick: Candidate, scores: Mapping[Key, Scores], clock: Clock
) -> tuple[Step, ...]:
    """The steps that exist, in the order faster, better, untrained. ``scores`` are those on test.

    An untrained candidate is a step where it is deeper than the pick, over the limit, and faster than the
    better one: beyond that, a gain is known.
    """
    here, value = clock.ms(pick), _value(pick)
    others = [c for c in candidates if not c.failed and c.key != pick.key and math.isfinite(clock.ms(c))]
    if value is None or math.isinf(here):
        return ()
    gains = {c.key: v - value for c in others if c.trained and (v := _value(c)) is not None}
    known = [c for c in others if c.key in gains]
    faster = sorted((c for c in known if clock.ms(c) < here), key=lambda c: (-gains[c.key], clock.ms(c), c.key))
    better = sorted(
        (c for c in known if clock.ms(c) >= here and gains[c.key] > 0),
        key=lambda c: (clock.ms(c), -gains[c.key], c.key),
    )
    reach = clock.ms(better[0]) if better else math.inf
    deeper = [c for c in others if not c.trained and c.layers > pick.layers and clock.needs_ms(c) is not None]
    untrained = sorted((c for c in deeper if clock.ms(c) < reach), key=lambda c: (clock.ms(c), c.key))
    ways = (("faster", faster), ("better", better), ("untrained", untrained))
    return tuple(_step(way, found[0], pick, scores, clock) for way, found in ways if found)


def _value(candidate: Candidate) -> float | None:
    return candidate.test.value if candidate.test else None


def _step(way: str, other: Candidate, pick: Candidate, scores: Mapping[Key, Scores], clock: Clock) -> Step:
    longer = clock.ms(other) - clock.ms(pick)
    step = Step(way, other, clock.percentile, longer, clock.needs_ms(other))
    theirs, ours = _value(other), _value(pick)
    if not other.trained or theirs is None or ours is None:
        return step
    gain = theirs - ours
    step = replace(step, gain=gain, points_per_ms=100 * gain / longer if gain * longer > 0 else None)
    if other.key in scores and pick.key in scores:
        gap = difference(scores[other.key], scores[pick.key])
        step = replace(step, low=gap.low, high=gap.high)
    return step
