"""What the benchmarks share: the heading of every table, timed processes in turn."""

from __future__ import annotations

import datetime
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from edgebert.machine import environment


def heading(title: str) -> str:
    """Title, command, machine, versions and date: what a number needs beside it."""
    facts = environment()
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    machine = f"{facts['cpu']}, {facts['threads']} threads, {' '.join(facts['isa']) or 'no listed ISA'}"
    day = datetime.datetime.now(datetime.UTC).date()
    return f"## {title}\n\n`python {' '.join(sys.argv)}`, {day}, {machine}; Python {facts['python']}, {versions}\n"


def seconds(command: Sequence[str]) -> float:
    """Wall time of a whole process. Raises CalledProcessError where it fails."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def in_turn(jobs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run every job once a round, so that a slow drift of the machine touches all alike."""
    found: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            found[name].append(job())
    return found


def spread(values: Sequence[float]) -> str:
    """Median with least and most."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
