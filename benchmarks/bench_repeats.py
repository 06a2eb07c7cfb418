"""Do repeated measurements agree? `edgebert bench` on a fit, five times, beside the naive way.

    python benchmarks/bench_repeats.py FIT [--repeats N] [--threads N] [--rounds N]

The naive way is one process that times one candidate after the other, with as many calls of the same texts.
Both are run in turn, and each is judged by the ratios of its p50s to the reference candidate's; then every run
of `edgebert bench` picks for several budgets, and the picks are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import heading

from edgebert.choosing.journal import Journal
from edgebert.judging.bench import BenchConfig
from edgebert.machine import allowed_threads

# Ratios are made of the rounds with the CPUs together, where there are five of at most forty.
MOST_APART_FOR_RATIOS = 0.875
NAIVE = """
import json, statistics, sys, time
import edgebert
paths = json.loads(sys.argv[1])
texts = [text if isinstance(text, str) else tuple(text) for text in json.loads(sys.stdin.read())]
found = {}
for path in paths:
    model = edgebert.load(path, threads=int(sys.argv[2]))
    for text in texts[:10]:
        model.finish(model.tokenize([text]))
    times = []
    for text in texts:
        start = time.perf_counter()
        model.finish(model.tokenize([text]))
        times.append((time.perf_counter() - start) * 1e3)
    found[path] = statistics.median(times)
print(json.dumps(found))
"""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("fit", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=allowed_threads())
    parser.add_argument("--rounds", type=int, default=BenchConfig.rounds)
    options = parser.parse_args()
    bench = ("bench", str(options.fit), "--threads", str(options.threads), "--rounds", str(options.rounds))
    honest, naive = [], []
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"run-{i}.json" for i in range(options.repeats)]
        for file in files:
            naive.append(_naive(options.fit, options.threads))
            file.write_text(_edgebert(*bench))
            honest.append(json.loads(file.read_text()))
        _print_ratios(honest, naive)
        _print_picks(options.fit, files, honest)


def _edgebert(*arguments: str) -> str:
    command = [sys.executable, "-m", "edgebert", *arguments, "--json", "-q"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout


def _naive(fit: Path, threads: int) -> dict[str, float]:
    paths = [str(manifest.parent) for manifest in sorted((fit / "artifacts").glob("*/edgebert.json"))]
    texts = Journal(fit).bench_texts()
    command = [sys.executable, "-c", NAIVE, json.dumps(paths), str(threads)]
    found: dict[str, float] = json.loads(subprocess.check_output(command, input=json.dumps(texts), text=True))
    return found


def _print_ratios(honest: Sequence[dict[str, Any]], naive: Sequence[dict[str, float]]) -> None:
    name = honest[0]["reference"].partition(" ")[0]
    reference = next(path for path in naive[0] if Path(path).name == name)
    together = [run for run in honest if run["conditions"]["apart"] <= MOST_APART_FOR_RATIOS]
    print(heading(f"{len(honest)} repeats of one measurement: ratios to {name}"))
    print("| candidate | edgebert bench, ratios | spread | CPUs together | naive, ratios | spread |")
    print("|---|---|---|---|---|---|")
    for place, row in enumerate(honest[0]["results"]):
        ours, calm = ([run["results"][place]["ratio"] for run in runs] for runs in (honest, together))
        theirs = [run[row["artifact"]] / run[reference] for run in naive]
        cells = (_list(ours), _spread(ours), _spread(calm), _list(theirs), _spread(theirs))
        print(f"| {Path(row['artifact']).name} | {' | '.join(cells)} |")
    print(f"\n{len(together)} of {len(honest)} runs had five or more rounds with the CPUs together.\n")
    print("| run | drift | rounds with the CPUs apart | cost of sharing | called stable |\n|---|---|---|---|---|")
    for number, c in enumerate((run["conditions"] for run in honest), 1):
        told = "yes" if c["stable"] else "no"
        print(f"| {number} | {c['drift']:.1%} | {c['apart']:.0%} | {c['sharing']:.2f} | {told} |")
    print()


def _list(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "-"
    return f"{(max(values) - min(values)) / statistics.median(values):.1%}"


def _print_picks(fit: Path, files: Sequence[Path], honest: Sequence[dict[str, Any]]) -> None:
    """For budgets just above each candidate's own latency: does every run pick the same, or name the tie?"""
    calm = [run["conditions"]["stable"] for run in honest]
    print("| budget | picks | same, or a named tie | of the runs called stable |\n|---|---|---|---|")
    for row in honest[0]["results"]:
        budget = f"p50={row['p50_ms'] * 1.1:.4f}ms"
        told = [json.loads(_edgebert("pick", str(fit), "--budget", budget, "--bench", str(file))) for file in files]
        names = [_name(document["pick"]) for document in told]
        stable = [document for document, trusted in zip(told, calm, strict=True) if trusted]
        print(f"| {budget} | {', '.join(names)} | {_agreement(told)} | {_agreement(stable)} |")


def _agreement(told: Sequence[dict[str, Any]]) -> str:
    if len(told) < 2:
        return "-"
    return "yes" if all(_agrees(one, other) for one in told for other in told) else "no"


def _name(pick: dict[str, Any] | None) -> str:
    return f"{pick['layers']} layers {pick['precision']}" if pick else "none"


def _agrees(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether both picked the same, or the second calls the first's pick a tie of its own."""
    if not (one["pick"] and other["pick"]):
        return bool(one["pick"]) == bool(other["pick"])
    pick = one["pick"]
    name = f"{pick['layers']} layer{'s' * (pick['layers'] > 1)} {pick['precision']} on {pick['target']}"
    return pick["digest"] == other["pick"]["digest"] or name in other["ties"] or name in other["as_fast"]


if __name__ == "__main__":
    main()
