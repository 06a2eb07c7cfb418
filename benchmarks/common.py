"""What the benchmarks share: the heading of every table, timed processes in turn, the memory of a command."""

from __future__ import annotations

import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgebert.machine import environment

# How often a command's memory is looked at.
_EVERY_SECONDS = 0.02


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


@dataclass(frozen=True)
class Usage:
    """What a command took: wall time, the peak of its largest process, and of all its processes together."""

    seconds: float
    largest_bytes: int
    together_bytes: int
    output: str


def measured(command: Sequence[str], folder: Path, variables: Mapping[str, str] | None = None) -> Usage:
    """Run a command in ``folder`` to its end and watch the memory of its processes (Linux).

    The largest process is by the kernel's own mark (VmHWM: ru_maxrss begins with the parent's), all together are the
    sum of resident memory, where pages that processes share count for each. Raises CalledProcessError where it fails.
    """
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **(variables or {})}, stdout=said, stderr=subprocess.STDOUT
        )
        largest = together = 0
        while process.poll() is None:
            marks = _memory(process.pid)
            largest, together = max(largest, *(most for _, most in marks)), max(together, sum(now for now, _ in marks))
            time.sleep(_EVERY_SECONDS)
        seconds = time.perf_counter() - start
        said.seek(0)
        output = said.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output)
    return Usage(seconds, largest, together, output)


def _memory(pid: int) -> list[tuple[int, int]]:
    """Resident bytes, now and at most, of a process and of all that it started; zeros for one that is gone."""
    place = Path(f"/proc/{pid}")
    try:
        lines = (place / "status").read_text().splitlines()
        # By the kernel's own lists: looking through all processes of the machine would take time from the command.
        lists = [(task / "children").read_text() for task in (place / "task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return [(0, 0)]
    found = dict(line.split(":", 1) for line in lines)
    # A process that has ended and is not yet waited for has none.
    now, most = (int(found.get(name, "0 kB").split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return [(now, most), *(one for children in lists for child in children.split() for one in _memory(int(child)))]
