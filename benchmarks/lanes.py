"""What it gains, and takes of memory, that calls at once each have a thread of their own.

    python benchmarks/lanes.py DATA ARTIFACT... [--rounds N]

The test texts of DATA in one call of ``predict``, with lanes and without, in fresh processes, in turn; the first of
each process's passes is left out of the speeds, the memory is of its end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import heading, spread

import edgebert
from edgebert.judging.evaluate import text_of
from edgebert.runtimes import lanes
from edgebert.training.data import read

PASSES, TEXTS = 4, 600


def main() -> None:
    """Print the table, or, as a process of a round, one way's speed and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("artifacts", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--way", choices=("with", "without"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.way:
        print(json.dumps(_measure(asked.artifacts[0], asked.data, asked.way)))
        return
    print(heading("Calls at once, each on a thread of its own: `predict` of many texts"))
    print("| artifact | MB | texts/s without | with | gain | MiB in memory without | with |")
    print("|---|---|---|---|---|---|---|")
    for path in asked.artifacts:
        print(_row(path, asked.data, asked.rounds), flush=True)


def _row(path: Path, data: Path, rounds: int) -> str:
    found: dict[str, list[list[float]]] = {"without": [], "with": []}
    for _ in range(rounds):
        for way, measured in found.items():
            command = [sys.executable, __file__, str(data), str(path), "--way", way]
            measured.append(json.loads(subprocess.check_output(command)))
    without, beside = found["without"], found["with"]
    gains = spread([ours[0] / theirs[0] for theirs, ours in zip(without, beside, strict=True)])
    speeds = " | ".join(f"{statistics.median(speed for speed, _ in way):.0f}" for way in (without, beside))
    memory = " | ".join(f"{statistics.median(mib for _, mib in way):.0f}" for way in (without, beside))
    size = edgebert.artifact.Artifact.open(path).manifest.bytes / 1e6
    return f"| {path.name} | {size:.0f} | {speeds} | {gains} | {memory} |"


def _measure(path: Path, data: Path, way: str) -> list[float]:
    """Texts a second, and MiB in memory after."""
    lanes.LARGEST = 0 if way == "without" else sys.maxsize
    texts = [text_of(row) for row in read(data).test[:TEXTS]]
    times = []
    with edgebert.load(path) as model:
        for _ in range(PASSES):
            start = time.perf_counter()
            model.predict(texts)
            times.append(time.perf_counter() - start)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
    return [len(texts) / statistics.median(times[1:]), resident]


if __name__ == "__main__":
    main()
