"""How calm the machine was while something was measured: stolen time, other programs, throttling, drift, distance.

Sources: proc(5) for /proc/stat, the kernel's cgroup-v2 page for cpu.stat, and its thermal documentation for
core_throttle_count. A machine that does not tell one of these is taken to be calm in that respect.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgebert.judging.rounds import MOST_SHARING, together
from edgebert.machine import CGROUP, words_of

# What may still pass for calm: judgement, see docs/measuring.md.
MOST_DRIFT = 0.25
MOST_STEAL = 0.02
MOST_BACKGROUND = 0.15
MOST_APART = 0.1

_PROC = Path("/proc")
_CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Conditions:
    """The machine during one measurement.

    ``drift`` is how far apart the slow and the fast rounds of the reference candidate were (its 10th to 90th
    percentile over its median). ``steal`` is the share of all CPU time that the host gave to others,
    ``background`` the share that programs other than ours used, ``throttled`` how often the kernel held a
    CPU back. ``sharing`` is the median cost of sharing small work among the threads, as a multiple of one
    thread's time (0 for one thread), ``apart`` the share of rounds in which it cost more than it gained.
    ``seconds`` is how long the rounds took.
    """

    reference: str
    drift: float
    steal: float
    background: float
    throttled: int
    seconds: float
    sharing: float = 0.0
    apart: float = 0.0

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the numbers are not to be trusted, in words; empty where the machine was calm."""
        return (*self.disturbances, *self._placement)

    @property
    def _placement(self) -> tuple[str, ...]:
        """Where a host places virtual CPUs is its own affair, and changes by itself after seconds or minutes."""
        if self.apart <= MOST_APART:
            return ()
        share = "all" if self.apart == 1 else f"{self.apart:.0%}"
        what = "the CPUs were too far apart for small work to gain from several threads; one thread would not notice"
        return (f"in {share} of the rounds {what}",)

    @property
    def disturbances(self) -> tuple[str, ...]:
        """What measuring again may be free of."""
        found = []
        if self.drift > MOST_DRIFT:
            found.append(f"the speed of {self.reference} varied by {self.drift:.0%} between rounds")
        if self.steal > MOST_STEAL:
            found.append(f"the host took {self.steal:.0%} of the CPU time")
        if self.background > MOST_BACKGROUND:
            found.append(f"other programs used {self.background:.0%} of the CPU time")
        if self.throttled:
            found.append(f"the CPU was throttled {self.throttled} times")
        return tuple(found)

    @property
    def stable(self) -> bool:
        """Whether the machine was calm."""
        return not self.reasons


def conditions_facts(conditions: Conditions | None) -> dict[str, Any]:
    """Conditions as plain JSON types, with the verdict and its reasons; empty for None."""
    if conditions is None:
        return {}
    return {**dataclasses.asdict(conditions), "stable": conditions.stable, "reasons": list(conditions.reasons)}


def drift_of(medians: Sequence[float]) -> float:
    """Spread of a reference's rounds, each given by its median in ms: (90th - 10th percentile) / median."""
    low, middle, high = np.percentile(np.asarray(medians, dtype=np.float64), [10, 50, 90])
    return float((high - low) / middle)


@dataclass(frozen=True)
class _Counters:
    """Clock ticks since the machine started, those of programs other than ours, and how often it was throttled."""

    total: int
    foreign: int
    steal: int
    throttled: int


class Watch:
    """Counts, over some stretches of time, what else the machine does while we measure."""

    def __init__(self) -> None:
        self._seen = _Counters(0, 0, 0, 0)
        self._seconds = 0.0

    @contextmanager
    def over(self, pids: Sequence[int] = ()) -> Iterator[None]:
        """One stretch, during which this process and the processes ``pids`` are ours."""
        ours = (os.getpid(), *pids)
        began, before = time.monotonic(), _counters(ours)
        yield
        after = _counters(ours)
        self._seconds += time.monotonic() - began
        sums = zip(astuple(self._seen), astuple(before), astuple(after), strict=True)
        self._seen = _Counters(*(seen + end - start for seen, start, end in sums))

    def conditions(self, reference: str, medians: Sequence[float], sharing: Sequence[float]) -> Conditions:
        """The conditions so far; of each round the reference's median and the cost of sharing work."""
        total = max(1, self._seen.total)
        return Conditions(
            reference=reference,
            drift=drift_of([medians[place] for place in together(sharing)]),
            steal=self._seen.steal / total,
            background=max(0.0, self._seen.foreign / total),
            throttled=self._seen.throttled,
            seconds=self._seconds,
            sharing=float(np.median(sharing)),
            apart=sum(cost > MOST_SHARING for cost in sharing) / len(sharing),
        )


def _counters(pids: Sequence[int], proc: Path = _PROC, cpus: Path = _CPUS, cgroup: Path = CGROUP) -> _Counters:
    # user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in user already.
    fields = [int(word) for word in words_of(proc / "stat")[1:9]]
    if len(fields) < 8:
        return _Counters(0, 0, 0, 0)
    user, nice, system, _, _, irq, softirq, steal = fields
    held_back = words_of(cgroup / "cpu.stat")
    by_group = int(held_back[held_back.index("nr_throttled") + 1]) if "nr_throttled" in held_back else 0
    by_heat = sum(int(path.read_text()) for path in cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
    busy = user + nice + system + irq + softirq
    return _Counters(sum(fields), busy - sum(map(_ticks_of, pids)), steal, by_group + by_heat)


def _ticks_of(pid: int) -> int:
    """User and system time of a process, in ticks; 0 once it has gone."""
    try:
        # The name, in parentheses, may hold anything.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])
