"""Pure decisions over candidates: which depths deserve training, and which candidate is the pick.

The dev set decides, the upper end of the latency interval must fit, and a difference that the paired
bootstrap on dev cannot tell from nothing goes to the faster candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from edgebert.choosing.budget import Budget
from edgebert.choosing.candidate import Candidate, Verdict
from edgebert.judging.metrics import Scores, difference

Key = tuple[int, str, str]


def depths_to_train(measured: Sequence[Candidate], budget: Budget) -> tuple[int, ...]:
    """Depths worth training, deepest first, from latencies that need no training.

    For each target and precision the deepest that fits; around the deepest of all, its shallower
    neighbour (fewer layers sometimes lose nothing) and a deeper one whose interval straddles the budget.
    Empty where nothing fits.
    """
    timed = [c for c in measured if c.latency is not None]
    fitting = [c for c in timed if budget.fits(c)]
    if not fitting:
        return ()
    ways = {(c.target, c.precision) for c in fitting}
    chosen = {max(c.layers for c in fitting if (c.target, c.precision) == way) for way in ways}
    depths = sorted({c.layers for c in timed})
    deepest = max(chosen)
    chosen |= set(depths[max(0, depths.index(deepest) - 1) : depths.index(deepest)])
    deeper = [c.layers for c in timed if c.layers > deepest and budget.may_fit(c)]
    chosen |= set(deeper[:1] and [min(deeper)])
    return tuple(sorted(chosen, reverse=True))


def choose(
    candidates: Sequence[Candidate],
    scores: Mapping[Key, Scores],
    teacher: Candidate | None,
    budget: Budget | None,
    max_drop: float | None,
) -> Verdict:
    """The pick among trained candidates, and why the others are not it.

    With a budget: the most accurate that fits, ties to the faster. With ``max_drop`` (points below the
    teacher on dev) alone: the fastest within it. With both, both bind. Of candidates whose speeds the
    measurement cannot tell apart either, the more accurate on dev.
    """
    trained = [c for c in candidates if c.trained and c.dev and c.latency and not c.failed]
    allowed = [c for c in trained if not _objections(c, teacher, budget, max_drop)]
    if not allowed:
        return Verdict(
            None,
            "nothing fits " + _wish(budget, max_drop),
            _misses(trained, candidates, teacher, budget, max_drop),
        )
    best = min(allowed, key=lambda c: (-_accuracy(c), _order(c)))
    tied = [best, *(c for c in allowed if c.key != best.key and _tie(scores, best, c))]
    # A tie may be due to noise of its own: one that another beats in both respects is no gain.
    offered = [c for c in (allowed if budget is None else tied) if not _beaten(c, allowed)]
    fastest = min(offered, key=_order)
    pick = min((c for c in offered if _as_fast(c, fastest)), key=lambda c: (-_accuracy(c), _order(c)))
    return Verdict(
        pick,
        _reason(best, pick, budget, max_drop),
        _runners_up(trained, pick, {c.key for c in tied}, lambda c: _objections(c, teacher, budget, max_drop)),
        ties=() if budget is None else tuple(c.name for c in tied if c.key != pick.key),
        as_fast=tuple(c.name for c in allowed if c.key != pick.key and _as_fast(c, pick) and _as_fast(pick, c)),
    )


def _speed(candidate: Candidate) -> float:
    return candidate.latency.p50 if candidate.latency else float("inf")


def _accuracy(candidate: Candidate) -> float:
    return candidate.dev.value if candidate.dev else 0.0


def _order(candidate: Candidate) -> tuple[float, float, Key]:
    """The faster first, of equally fast ones the more accurate."""
    return _speed(candidate), -_accuracy(candidate), candidate.key


def _beaten(candidate: Candidate, others: Iterable[Candidate]) -> bool:
    """Whether another is at least as accurate and as fast, and better in one of the two."""
    ours = (_accuracy(candidate), -_speed(candidate))
    theirs = [(_accuracy(other), -_speed(other)) for other in others]
    return any(a >= ours[0] and b >= ours[1] and (a, b) != ours for a, b in theirs)


def _tie(scores: Mapping[Key, Scores], best: Candidate, other: Candidate) -> bool:
    """Whether the dev set cannot tell the two apart: the paired 95 % interval of the difference holds zero."""
    if best.key not in scores or other.key not in scores:
        return bool(best.dev and other.dev and best.dev.value == other.dev.value)
    gap = difference(scores[best.key], scores[other.key])
    return gap.low <= 0.0


def _as_fast(candidate: Candidate, fastest: Candidate) -> bool:
    """Whether the measurement cannot say that a candidate is slower: paired by rounds, it may be as fast."""
    if candidate.key == fastest.key:
        return True
    ratio = candidate.latency.against(fastest.latency) if candidate.latency and fastest.latency else None
    return ratio is not None and ratio.low <= 1.0


def _reason(best: Candidate, pick: Candidate, budget: Budget | None, max_drop: float | None) -> str:
    if budget is None:
        return f"the fastest within {max_drop:g} points of the teacher on dev"
    if best.key == pick.key:
        return f"the most accurate on dev within {budget}, upper ends of intervals counted"
    return f"as accurate as {best.name} within the noise of dev (paired bootstrap), and faster; both within {budget}"


def _objections(c: Candidate, teacher: Candidate | None, budget: Budget | None, max_drop: float | None) -> list[str]:
    """Why a measured candidate may not be picked; empty where it may."""
    found = budget.objections(c) if budget is not None and c.latency is not None else []
    drop = points_lost(c, teacher)
    if max_drop is not None and drop is None and c.trained:
        found.append("its loss is not known: the teacher was not judged")
    if max_drop is not None and drop is not None and drop > max_drop:
        found.append(f"loses {drop:.2f} points on dev, {max_drop:g} are allowed")
    return found


def points_lost(candidate: Candidate, teacher: Candidate | None) -> float | None:
    """Points (hundredths of the metric) below the teacher on dev; None where one is not measured."""
    if teacher is None or teacher.dev is None or candidate.dev is None:
        return None
    return 100 * (teacher.dev.value - candidate.dev.value)


def _runners_up(
    trained: Iterable[Candidate], pick: Candidate, tied: set[Key], objections: Callable[[Candidate], list[str]]
) -> tuple[tuple[Candidate, str], ...]:
    """Everything else that was judged, the most accurate first, with the one sentence why not."""
    rows = []
    for c in sorted(trained, key=lambda c: -_accuracy(c)):
        if c.key == pick.key:
            continue
        noise = ", within the noise," if {c.key, pick.key} <= tied else ""
        rows.append((c, "; ".join(objections(c)) or _comparison(c, pick, noise)))
    return tuple(rows)


def _comparison(other: Candidate, pick: Candidate, noise: str) -> str:
    if not (other.dev and pick.dev and other.latency and pick.latency):
        return "not measured"
    gain = 100 * (other.dev.value - pick.dev.value)
    pace = other.latency.p50 / pick.latency.p50
    return f"{abs(gain):.2f} points {'better' if gain > 0 else 'worse'} on dev{noise} at {pace:.2f} times the latency"


def _misses(
    trained: Sequence[Candidate],
    candidates: Sequence[Candidate],
    teacher: Candidate | None,
    budget: Budget | None,
    max_drop: float | None,
) -> tuple[tuple[Candidate, str], ...]:
    """The nearest misses where nothing fits: the fastest for a budget, the most accurate for a drop."""
    judged = list(trained) or [c for c in candidates if c.latency]
    if budget is not None:
        judged.sort(key=lambda c: (budget.excess(c), _order(c)))
    else:
        judged.sort(key=lambda c: -_accuracy(c))
    return tuple((c, "; ".join(_objections(c, teacher, budget, max_drop)) or "not trained") for c in judged[:3])


def _wish(budget: Budget | None, max_drop: float | None) -> str:
    parts = [str(budget)] if budget else []
    parts += [f"a drop of {max_drop:g} points"] if max_drop is not None else []
    return " and ".join(parts)
