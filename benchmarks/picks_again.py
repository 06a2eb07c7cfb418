"""Does a pick meet its budget when it is measured again? A hundred random budgets on a tiny model.

    python benchmarks/picks_again.py [FIT]

Without FIT, a tiny model of six layers is fitted first. Every run measures all candidates anew. For five random
budgets, spread evenly over the orders of magnitude between the fastest and the slowest, each run picks, and the
*next* run says whether the pick kept to the budget. A second row does the same with the hardest budgets there
are: exactly the upper end of some candidate's interval, so that it only just fits.
"""

from __future__ import annotations

import math
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from common import heading

from edgebert.choosing.budget import Budget, Limit
from edgebert.choosing.candidate import Candidate
from edgebert.choosing.journal import Journal
from edgebert.choosing.pick import choose
from edgebert.judging.bench import measure
from edgebert.judging.latency import BenchConfig, Contender, Latency

# The tests' tiny model.
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
import tiny

RUNS, BUDGETS = 21, 5


def main() -> None:
    """Print the table for a fit that is given, or made."""
    if len(sys.argv) > 1:
        _measure(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        _measure(_tiny_fit(Path(folder)))


def _tiny_fit(folder: Path) -> Path:
    model, data = tiny.checkpoint(folder / "tiny", layers=6), tiny.labelled(folder / "data", rows=48)
    quick = ("--max-steps", "1", "--train-batch-size", "16", "--max-length", "16", "--threads", "1", "--remeasure", "0")
    arguments = (
        "--model",
        str(model),
        "--data",
        str(data),
        "--exhaustive",
        "--budget",
        "p50=1s",
        "--precision",
        "fp32",
        *quick,
    )
    command = [sys.executable, "-m", "edgebert", "fit", *arguments, "-q", "-o", str(folder / "fit")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "fit"


def _measure(fit: Path) -> None:
    journal = Journal(fit)
    trained = [c for c in journal.candidates(trained=True) if c.path and not c.failed]
    contenders = [Contender(fit / str(c.path), c.target) for c in trained]
    texts, config = journal.bench_texts(), BenchConfig(threads=1)
    runs, reasons = [], []
    for number in range(RUNS):
        found = measure(contenders, texts, replace(config, seed=number))
        timed = zip(trained, found.results, strict=True)
        runs.append([replace(c, latency=latency) for c, latency in timed if isinstance(latency, Latency)])
        reasons += [f"run {number + 1}: {reason}" for reason in (found.conditions.reasons if found.conditions else ())]
        print(f"run {number + 1} of {RUNS}", file=sys.stderr)
    print(heading(f"Picks measured again, {len(trained)} candidates, 1 thread"))
    print("| percentile | budgets | picks | kept | none fitted |\n|---|---|---|---|---|")
    for quantity in ("p50", "p95"):
        for kind, draw in (("random", _random_limit), ("just fitting", _just_fitting)):
            picks, kept, none = _again(runs, quantity, draw)
            print(f"| {quantity} | {kind} | {picks} | {kept} ({kept / max(1, picks):.0%}) | {none} |")
    print("\nCalled unstable: " + ("; ".join(reasons) or "none") + ".\n")
    _print_values(runs)


def _print_values(runs: Sequence[Sequence[Candidate]]) -> None:
    """What the runs measured: how far a percentile moves from run to run, and how far its interval reaches up."""
    print(
        "| candidate | p50 over the runs | interval up to | p95 over the runs | interval up to |\n|---|---|---|---|---|"
    )
    for rows in zip(*runs, strict=True):
        cells = []
        for quantity in ("p50", "p95"):
            values = [_value(candidate, quantity) for candidate in rows]
            reach = statistics.median(Limit(quantity, 1.0).interval(c)[1] / _value(c, quantity) for c in rows)
            cells += [f"{min(values):.3f} to {max(values):.3f} ms", f"{reach:.2f} times"]
        print(f"| {rows[0].name} | {' | '.join(cells)} |")


def _again(runs: Sequence[Sequence[Candidate]], quantity: str, draw: object) -> tuple[int, int, int]:
    generator = random.Random(0)
    picks = kept = none = 0
    for run, after in pairwise(runs):
        for _ in range(BUDGETS):
            limit = Limit(quantity, draw(generator, run, quantity))  # type: ignore[operator]
            pick = choose(run, {}, None, Budget((limit,)), None).pick
            if pick is None:
                none += 1
                continue
            picks += 1
            kept += _value(next(c for c in after if c.key == pick.key), quantity) <= limit.most
    return picks, kept, none


def _value(candidate: Candidate, quantity: str) -> float:
    latency = candidate.latency
    assert latency
    value = latency.p50 if quantity == "p50" else latency.p95
    assert value is not None
    return value


def _random_limit(generator: random.Random, run: Sequence[Candidate], quantity: str) -> float:
    values = [_value(c, quantity) for c in run]
    return math.exp(generator.uniform(math.log(min(values)), math.log(max(values) * 1.2)))


def _just_fitting(generator: random.Random, run: Sequence[Candidate], quantity: str) -> float:
    return Limit(quantity, 1.0).interval(generator.choice(run))[1]


if __name__ == "__main__":
    main()
