"""All depths of a bert-base classifier exported and verified: edgebert in one run, Optimum's CLI once a depth.

    python benchmarks/optimum_side_by_side.py [--optimum .interop/env/bin/optimum-cli] [--layers N] [--rounds N]

`make interop` makes the environment of Optimum. Each tool exports and checks as it does by default: edgebert cuts the
checkpoint itself, compares the cut with the full model to the bit and the graph with PyTorch on its thirty packaged
texts, alone and in padded batches; Optimum is given checkpoints that were cut before the clock started, and compares
one random batch. In each round edgebert's run stands between two halves of Optimum's, so that a machine that drifts
drifts for both.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import Usage, heading, measured

ROOT = Path(__file__).resolve().parent.parent
MAKER = Path(__file__).with_name("random_models.py")
# What Optimum says of a validation that failed, and goes on.
WARNED = "succeeded with the warning"


@dataclass(frozen=True)
class Round:
    """One run of edgebert over all depths, and one of Optimum for each."""

    edgebert: Usage
    optimum: Sequence[Usage]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimum", type=Path, default=ROOT / ".interop" / "env" / "bin" / "optimum-cli")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--ffn", type=int, default=3072)
    parser.add_argument("--vocab", type=int, default=30522)
    parser.add_argument("--rounds", type=int, default=1)
    asked = parser.parse_args()
    if not asked.optimum.is_file():
        parser.error(f"no Optimum at {asked.optimum}: make interop")
    depths = range(1, asked.layers + 1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shape = map(str, (asked.vocab, asked.layers, asked.hidden, asked.heads, asked.ffn))
        subprocess.run([sys.executable, MAKER, root / "model", "bert", *shape], check=True, stderr=subprocess.DEVNULL)
        for depth in depths:
            _edgebert(root, "resize", "--layers", str(depth), "-o", f"model-{depth}")
        rounds = [_round(root, depths, asked.optimum) for _ in range(asked.rounds)]
    shape = f"{asked.layers} layers, {asked.hidden} wide, {asked.heads} heads, FFN {asked.ffn}, {asked.vocab} tokens"
    print(heading(f"{asked.layers} depths exported and verified: edgebert beside Optimum"))
    print(f"A BERT classifier with random weights: {shape}. {_versions(asked.optimum)}.\n")
    _print(rounds, depths)


def _round(root: Path, depths: Sequence[int], optimum: Path) -> Round:
    half = len(depths) // 2
    theirs = [_optimum(root, depth, optimum) for depth in depths[:half]]
    ours = _edgebert(root, "export", "--layers", ",".join(map(str, depths)), "-o", "out")
    shutil.rmtree(root / "out")
    return Round(ours, [*theirs, *(_optimum(root, depth, optimum) for depth in depths[half:])])


def _edgebert(root: Path, *arguments: str) -> Usage:
    command = [sys.executable, "-m", "edgebert", *arguments, "--model", "model", "-q"]
    return measured(command, root, {"PYTHONPATH": str(ROOT)})


def _optimum(root: Path, depth: int, optimum: Path) -> Usage:
    task = ("--task", "text-classification")
    command = [str(optimum), "export", "onnx", "--model", f"model-{depth}", *task, f"optimum-{depth}"]
    used = measured(command, root, {"HF_HUB_OFFLINE": "1"})
    shutil.rmtree(root / f"optimum-{depth}")
    return used


def _versions(optimum: Path) -> str:
    """What the environment of Optimum holds."""
    names = ("optimum", "optimum-onnx", "transformers", "torch", "onnx", "onnxruntime")
    program = f"from importlib.metadata import version\nprint(', '.join(f'{{n}} {{version(n)}}' for n in {names}))"
    told = subprocess.check_output([optimum.with_name("python"), "-c", program], text=True)
    return f"Optimum's environment: {told.strip()}"


def _print(rounds: Sequence[Round], depths: Sequence[int]) -> None:
    print("| round | tool | seconds in all | peak MB, largest process | peak MB, its processes together |")
    print("|---|---|---|---|---|")
    for number, one in enumerate(rounds, 1):
        for name, runs in (("edgebert", [one.edgebert]), ("Optimum", one.optimum)):
            print(f"| {number} | {name} | {_sums(runs)} |")
    ratios = [one.edgebert.seconds / sum(run.seconds for run in one.optimum) for one in rounds]
    warned = sum(WARNED in run.output for one in rounds for run in one.optimum)
    print(f"\nedgebert's time over Optimum's: {', '.join(f'{r:.2f}' for r in ratios)}", end="; ")
    print(f"median {statistics.median(ratios):.2f}. Optimum called {warned} of its exports wrong, and left with 0.\n")
    times = [[one.optimum[place].seconds for one in rounds] for place in range(len(depths))]
    print(f"| depth | {' | '.join(map(str, depths))} |\n|---{'|---' * len(depths)}|")
    print(f"| Optimum, seconds | {' | '.join(f'{statistics.median(found):.1f}' for found in times)} |")


def _sums(runs: Sequence[Usage]) -> str:
    largest, together = max(run.largest_bytes for run in runs), max(run.together_bytes for run in runs)
    return f"{sum(run.seconds for run in runs):.1f} | {largest / 1e6:.0f} | {together / 1e6:.0f}"


if __name__ == "__main__":
    main()
