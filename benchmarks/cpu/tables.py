"""What the rounds say, in Markdown: times, paired ratios with their spread, shares of the peak, accuracy, failures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cpu.driver import Outcome

Answer = Mapping[str, Any]


def milliseconds(outcome: Outcome) -> list[float]:
    """Each round's median call."""
    return [statistics.median(answer["ms"]) for answer in outcome.rounds]


def later(outcome: Outcome) -> list[Answer]:
    """The rounds but each sitting's first, in which all shapes are new; all where no sitting has another."""
    return [answer for sitting in outcome.sittings for answer in sitting[1:]] or outcome.rounds


def arrays_table(
    outcomes: Sequence[Outcome],
    machine: Outcome,
    work: Mapping[str, tuple[str, float]],
    against: Sequence[str],
    exact: str,
) -> list[str]:
    """Latencies of token arrays. ``work`` has, by name, the precision and operations of a call's matrix products."""
    times = {outcome.name: milliseconds(outcome) for outcome in outcomes if not outcome.failure}
    references = {name: times.get(name) for name in against}
    logits = {outcome.name: outcome.opened.get("logits") for outcome in outcomes if not outcome.failure}

    def cells(outcome: Outcome) -> list[str]:
        own = times[outcome.name]
        ratios = [_ratio(reference, own) for reference in references.values()]
        share = _share(own, machine, *work[outcome.name])
        return [_spread(own, ".1f"), *ratios, share, _error(logits[outcome.name], logits.get(exact))]

    names = ["ms a call", *(f"times {name}" for name in against), "share of the peak", "largest error"]
    return _table(names, outcomes, cells)


def texts_table(outcomes: Sequence[Outcome], gold: Sequence[int], against: Sequence[str]) -> list[str]:
    """Texts a second, tokenization included, and how many are labelled right."""
    times = {
        outcome.name: [answer["seconds"] for answer in later(outcome)] for outcome in outcomes if not outcome.failure
    }

    def cells(outcome: Outcome) -> list[str]:
        own = times[outcome.name]
        first = [len(gold) / sitting[0]["seconds"] for sitting in outcome.sittings]
        ratios = [_ratio(times.get(name), own) for name in against]
        right = np.mean(np.asarray(outcome.rounds[-1]["labels"]) == np.asarray(gold))
        speed = _spread([len(gold) / seconds for seconds in own], ".0f")
        return [speed, *ratios, _spread(first, ".0f"), f"{right:.2%}"]

    names = ["texts/s", *(f"times {name}" for name in against), "texts/s, first pass", "accuracy"]
    return _table(names, outcomes, cells)


def machine_line(machine: Outcome) -> str:
    """The peaks, and what it cost to share small work."""
    if machine.failure:
        return f"The machine could not be measured: {machine.failure}"
    types = {name: [answer["gops"][name] for answer in machine.rounds] for name in machine.rounds[0]["gops"]}
    peaks = ", ".join(f"{name} {_spread(values, '.0f')}" for name, values in types.items())
    line = f"Peaks of matrix products in the same rounds, GOP/s: {peaks}."
    costs = [answer["sharing"] for answer in machine.rounds if answer.get("sharing") is not None]
    if not costs:
        return line
    return f"{line} Cost of sharing small work among the threads, in one thread's time: {_spread(costs, '.2f')}."


def settings_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """Each peer's settings and versions, as its worker says them."""
    facts = {outcome.name: outcome.opened.get("facts", {}) for outcome in outcomes}
    return [f"- {name}: {found['settings']}; {found['versions']}" for name, found in facts.items() if found]


def _table(columns: Sequence[str], outcomes: Sequence[Outcome], cells: Callable[[Outcome], Sequence[str]]) -> list[str]:
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for outcome in outcomes:
        found = [outcome.failure.replace("|", "/"), *[""] * (len(columns) - 1)] if outcome.failure else cells(outcome)
        lines.append(f"| {outcome.name} | {' | '.join(found)} |")
    return lines


def _ratio(reference: Sequence[float] | None, own: Sequence[float]) -> str:
    """How many times as fast as the reference, by paired rounds."""
    if reference is None:
        return "-"
    return _spread([other / one for other, one in zip(reference, own, strict=True)], ".2f")


def _share(own: Sequence[float], machine: Outcome, precision: str, operations: float) -> str:
    """Operations a second over the peak of the same round."""
    if machine.failure:
        return "-"
    peaks = [answer["gops"][precision] for answer in machine.rounds]
    return _spread([operations / (ms * 1e6) / peak for ms, peak in zip(own, peaks, strict=True)], ".0%")


def _error(own: Any, exact: Any) -> str:
    if own is None or exact is None:
        return "-"
    return f"{np.abs(np.asarray(own) - np.asarray(exact)).max():.1e}"


def _spread(values: Sequence[float], form: str) -> str:
    """Median with least and most."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"
