"""What training all depths in one run costs, beside training the deepest alone: CPU and wall seconds, in turn.

    python benchmarks/training_cost.py TEACHER DATA [--init-from minilm] [--rows 960] [--rounds 2]

Each training is a fresh process on the same part of the data, with all its epochs, evaluations and checkpoints; the
clocks start when everything is imported. Ratios are to the deepest distilled alone, by logits and hidden states.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from common import heading, in_turn, spread

from edgebert import build
from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.training import trainer  # noqa: F401  imported before the clocks start
from edgebert.training.data import read, sample_texts
from edgebert.training.objectives import method_named
from edgebert.training.plan import TrainConfig

ALONE = "hidden"


def main() -> None:
    """Print the table, or in a process of its own train once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", help="checkpoint, fine-tuned for the labels of the data")
    parser.add_argument("data", help="folder or file")
    parser.add_argument("--init-from", default="minilm", help="pre-trained checkpoint that students start from")
    parser.add_argument("--methods", default="elastic,logits")
    parser.add_argument("--rows", type=int, default=960, help="of train; of dev in proportion")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--once", metavar="METHOD", help="train by this method and print what it took")
    asked = parser.parse_args()
    logging.getLogger("edgebert").setLevel(logging.ERROR)
    if asked.once:
        print(json.dumps(_once(asked)))
        return
    cpu: dict[str, list[float]] = {}

    def job(method: str) -> Callable[[], float]:
        def train() -> float:
            command = [sys.executable, *sys.argv, "--once", method]
            used = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            cpu.setdefault(method, []).append(used["cpu"])
            return float(used["wall"])

        return train

    wall = in_turn({method: job(method) for method in (ALONE, *asked.methods.split(","))}, asked.rounds)
    layers = open_checkpoint(asked.teacher).manifest.architecture.layers
    print(heading(f"What a training costs: {layers} layers, {asked.rows} rows of {Path(asked.data).name}"))
    _print(layers, wall, cpu)


def _once(asked: argparse.Namespace) -> Mapping[str, float]:
    data = read(asked.data)
    dev = sample_texts(data.dev, max(1, len(data.dev) * asked.rows // len(data.train)), seed=0)
    part = dataclasses.replace(data, train=tuple(sample_texts(data.train, asked.rows, seed=0)), dev=tuple(dev))
    teacher = open_checkpoint(asked.teacher)
    with tempfile.TemporaryDirectory() as folder:
        base, part, _ = build.with_head(asked.init_from, part, Path(folder) / "base")
        depths = tuple(range(1, base.manifest.architecture.layers + 1))
        exits = depths if method_named(asked.once).together else ()
        config = TrainConfig(method=asked.once, exits=exits)
        work, cutter = Path(folder) / "work", build.Exporter(base, [], "", Path(folder) / "cut")
        sources = {Path(folder) / str(depth): cutter.truncated(range(depth)) for depth in exits or depths[-1:]}
        cpu, wall = time.process_time(), time.perf_counter()
        if exits:
            build.train_together(sources, config, data=part, teacher=teacher, work=work)
        else:
            ((place, source),) = sources.items()
            build.train_stage(source, config, place, data=part, teacher=teacher, work=work)
        return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def _print(layers: int, wall: Mapping[str, Sequence[float]], cpu: Mapping[str, Sequence[float]]) -> None:
    print("| training | CPU seconds | ratio | wall seconds | ratio |\n|---|---|---|---|---|")
    for method in wall:
        depths = f"1 to {layers}" if method_named(method).together else str(layers)
        cells = [f"{method}, {depths} layers"]
        for found in (cpu, wall):
            ratios = [ours / alone for ours, alone in zip(found[method], found[ALONE], strict=True)]
            cells += [spread(found[method]), f"{statistics.median(ratios):.2f}"]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
