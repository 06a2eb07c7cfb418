"""Do repeated measurements agree? `edgebert bench` on a fit, five times, beside the naive way.

    python benchmarks/bench_repeats.py FIT

The naive way is one process that times one candidate after the other, with as many calls of the same texts.
Both are run in turn, and each is judged by the ratios of its p50s to the reference candidate's; then every run
of `edgebert bench` picks for several budgets, and the picks are compared.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import heading

from edgebert.artifact import Artifact
from edgebert.choosing.journal import Journal

REPEATS = 5
NAIVE = """
import json, statistics, sys, time
import edgebert
paths = json.loads(sys.argv[1])
texts = [text if isinstance(text, str) else tuple(text) for text in json.loads(sys.stdin.read())]
found = {}
for path in paths:
    model = edgebert.load(path)
    for text in texts[:10]:
        model.answer(model.tokenize([text]))
    times = []
    for text in texts:
        start = time.perf_counter()
        model.answer(model.tokenize([text]))
        times.append((time.perf_counter() - start) * 1e3)
    found[path] = statistics.median(times)
print(json.dumps(found))
"""


def main() -> None:
    """Print the tables."""
    fit = Path(sys.argv[1])
    honest, naive = [], []
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"run-{i}.json" for i in range(REPEATS)]
        for file in files:
            naive.append(_naive(fit))
            file.write_text(_edgebert("bench", str(fit)))
            honest.append(json.loads(file.read_text()))
        _print_ratios(honest, naive)
        _print_picks(fit, files, honest)


def _edgebert(*arguments: str) -> str:
    command = [sys.executable, "-m", "edgebert", *arguments, "--json", "-q"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout


def _naive(fit: Path) -> dict[str, float]:
    paths = [str(manifest.parent) for manifest in sorted((fit / "artifacts").glob("*/edgebert.json"))]
    texts = Journal(fit).bench_texts()
    command = [sys.executable, "-c", NAIVE, json.dumps(paths)]
    found: dict[str, float] = json.loads(subprocess.check_output(command, input=json.dumps(texts), text=True))
    return found


def _print_ratios(honest: Sequence[dict[str, Any]], naive: Sequence[dict[str, float]]) -> None:
    name = honest[0]["reference"].partition(" ")[0]
    reference = next(path for path in naive[0] if Path(path).name == name)
    print(heading(f"Five repeats of one measurement: ratios to {name}"))
    print("| candidate | edgebert bench, ratios | spread | naive, ratios | spread |\n|---|---|---|---|---|")
    for place, row in enumerate(honest[0]["results"]):
        ours = [run["results"][place]["ratio"] for run in honest]
        theirs = [run[row["artifact"]] / run[reference] for run in naive]
        print(
            f"| {Path(row['artifact']).name} | {_list(ours)} | {_spread(ours)} | {_list(theirs)} | {_spread(theirs)} |"
        )
    calm = [run["conditions"] for run in honest]
    drifts = ", ".join(format(c["drift"], ".1%") for c in calm)
    print(
        f"\nReference drift within a run: {drifts}. Called stable: {sum(c['stable'] for c in calm)} of {len(calm)}.\n"
    )


def _list(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _spread(values: Sequence[float]) -> str:
    return f"{(max(values) - min(values)) / statistics.median(values):.1%}"


def _print_picks(fit: Path, files: Sequence[Path], honest: Sequence[dict[str, Any]]) -> None:
    """For budgets just above each candidate's own latency: does every run pick the same, or name the tie?"""
    print("| budget | picks of the five runs | same, or a named tie |\n|---|---|---|")
    for row in honest[0]["results"]:
        budget = f"p50={row['p50_ms'] * 1.1:.4f}ms"
        told = [json.loads(_edgebert("pick", str(fit), "--budget", budget, "--bench", str(file))) for file in files]
        names = [_name(document["pick"]) for document in told]
        agree = all(_agrees(one, other) for one in told for other in told)
        print(f"| {budget} | {', '.join(names)} | {'yes' if agree else 'no'} |")


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
    Artifact.open(Path(sys.argv[1]) / "best")
    main()
