"""How calm the machine was while something was measured: stolen time, other programs, throttling, drift.

Sources: proc(5) for /proc/stat, the kernel's cgroup-v2 page for cpu.stat, and its thermal documentation for
core_throttle_count. A machine that does not tell one of these is taken to be calm in that respect.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgebert.machine import CGROUP, words_of

# What may still pass for calm: judgement, see docs/measuring.md.
MOST_DRIFT = 0.15
MOST_STEAL = 0.02
MOST_BACKGROUND = 0.15

_PROC = Path("/proc")
_CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Conditions:
    """The machine during one measurement.

    ``drift`` is how far apart the slow and the fast rounds of the reference candidate were (its 10th to 90th
    percentile over its median). ``steal`` is the share of all CPU time that the host gave to others,
    ``background`` the share that programs other than ours used, ``throttled`` how often the kernel held a
    CPU back. ``seconds`` is how long it took.
    """

    reference: str
    drift: float
    steal: float
    background: float
    throttled: int
    seconds: float

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the numbers are not to be trusted, in words; empty where the machine was calm."""
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
    """Clock ticks since the machine started, and how often it was throttled."""

    total: int
    busy: int
    steal: int
    throttled: int


class Watch:
    """Counts what else the machine does while the processes ``pids`` (and this one) measure."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = (os.getpid(), *pids)
        self._began = time.monotonic()
        self._before, self._own_before = _counters(), self._own()

    def conditions(self, reference: str, medians: Sequence[float]) -> Conditions:
        """The conditions since the watch began; ``medians`` are those of the reference's rounds."""
        now, own = _counters(), self._own()
        before, own_before = self._before, self._own_before
        total = max(1, now.total - before.total)
        return Conditions(
            reference=reference,
            drift=drift_of(medians),
            steal=(now.steal - before.steal) / total,
            background=max(0.0, (now.busy - before.busy - (own - own_before)) / total),
            throttled=now.throttled - before.throttled,
            seconds=time.monotonic() - self._began,
        )

    def _own(self) -> int:
        return sum(_ticks_of(pid) for pid in self._pids)


def _counters(proc: Path = _PROC, cpus: Path = _CPUS, cgroup: Path = CGROUP) -> _Counters:
    # user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in user already.
    fields = [int(word) for word in words_of(proc / "stat")[1:9]]
    if len(fields) < 8:
        return _Counters(0, 0, 0, 0)
    user, nice, system, _, _, irq, softirq, steal = fields
    held_back = words_of(cgroup / "cpu.stat")
    by_group = int(held_back[held_back.index("nr_throttled") + 1]) if "nr_throttled" in held_back else 0
    by_heat = sum(int(path.read_text()) for path in cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
    return _Counters(sum(fields), user + nice + system + irq + softirq, steal, by_group + by_heat)


def _ticks_of(pid: int) -> int:
    """User and system time of a process, in ticks; 0 once it has gone."""
    try:
        # The name, in parentheses, may hold anything.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])
