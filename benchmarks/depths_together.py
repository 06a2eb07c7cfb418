"""What all depths from one training keep, beside each depth distilled alone: the task metric on test.

    python benchmarks/depths_together.py FOLDER DATA [--sets sst2_sent,...] [--methods elastic,hidden]

DATA is a folder with one for each set. FOLDER/SET/teacher is a checkpoint fine-tuned for the set, and
FOLDER/SET/METHOD/teacher-l3 and so on are its students, as `edgebert distill --model FOLDER/SET/teacher --init-from
minilm --method METHOD -o FOLDER/SET/METHOD` trains them; what is missing is trained. Points are paired differences to
the second method, which trains every depth in a run of its own.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from common import heading

from edgebert import build
from edgebert.artifact import Artifact
from edgebert.judging.evaluate import evaluate
from edgebert.judging.metrics import Metric, Scores, difference
from edgebert.runtimes.reference import open as open_torch
from edgebert.runtimes.session import SessionConfig
from edgebert.serving.model import Model
from edgebert.serving.tokens import TextTokenizer
from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.training.data import Data, match_labels, read
from edgebert.training.plan import TrainConfig, teacher_recipe

Found = Mapping[str, Mapping[int, Scores]]


def main() -> None:
    """Train what is missing, then print a table for each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("data", type=Path, help="folder with a folder for each set")
    parser.add_argument("--model", default="minilm", help="pre-trained checkpoint")
    parser.add_argument("--sets", default="sst2_sent,banking77")
    parser.add_argument("--layers", default="1,2,3,4,5,6")
    parser.add_argument("--methods", default="elastic,hidden", help="the second is what all are compared with")
    parser.add_argument("--max-steps", type=int, help="of each training; for trying this out")
    asked = parser.parse_args()
    logging.getLogger("edgebert").setLevel(logging.ERROR)
    layers, methods = [int(word) for word in asked.layers.split(",")], asked.methods.split(",")
    print(heading("All depths from one training, and each depth alone"))
    for name in asked.sets.split(","):
        place, folder = asked.data / name, asked.folder / name
        teacher = _teacher(asked.model, place, folder / "teacher", asked.max_steps)
        data = read(place)
        data = match_labels(data, teacher.manifest.labels) or data
        found: dict[str, dict[int, Scores]] = {}
        for method in methods:
            config = TrainConfig(method=method, max_steps=asked.max_steps)
            made = build.distill(str(teacher.path), place, layers, folder / method, config, init_from=asked.model)
            found[method] = {depth: _scores(one, data) for depth, one in zip(layers, made, strict=True)}
            print(name, method, {d: s.metric_value().value for d, s in found[method].items()}, file=sys.stderr)
        _print(name, _scores(teacher, data), found, methods)


def _teacher(model: str, place: Path, out: Path, max_steps: int | None) -> Artifact:
    if not out.exists():
        data = read(place)
        start = open_checkpoint(model)
        recipe = teacher_recipe(start.manifest.architecture.hidden, len(data.labels))
        config = TrainConfig(**{**vars(recipe), "max_steps": max_steps})
        (made,) = build.distill(model, place, [start.manifest.architecture.layers], out.parent / "first", config)
        made.path.rename(out)
    return open_checkpoint(str(out))


def _scores(checkpoint: Artifact, data: Data) -> Scores:
    with Model(checkpoint, open_torch(checkpoint, SessionConfig()), TextTokenizer(checkpoint)) as model:
        return evaluate(model, data.test)


def _print(name: str, teacher: Scores, found: Found, methods: Sequence[str]) -> None:
    alone = methods[1]
    print(f"### {name}\n\n{teacher.metric} on {len(teacher.rows)} texts; teacher {_value(teacher):.4f}.\n")
    others = [method for method in methods if method != alone]
    heads = [alone, *(word for method in others for word in (method, f"{method}: points (paired 95 %)"))]
    print(f"| layers | {' | '.join(heads)} |\n|---{'|---' * len(heads)}|")
    for depth, scores in found[alone].items():
        cells = [f"{_value(scores):.4f}"]
        for method in others:
            cells += [f"{_value(found[method][depth]):.4f}", _points(difference(found[method][depth], scores))]
        print(f"| {depth} | {' | '.join(cells)} |")
    cells = [f"{statistics.mean(map(_value, found[alone].values())):.4f}"]
    for method in others:
        cells += [f"{statistics.mean(map(_value, found[method].values())):.4f}", _points(_mean(found, method, alone))]
    print(f"| mean | {' | '.join(cells)} |\n", flush=True)


def _value(scores: Scores) -> float:
    return scores.metric_value().value


def _mean(found: Found, method: str, alone: str) -> Metric:
    """The mean difference over depths: texts are drawn for all depths alike."""
    metric = next(iter(found[alone].values())).metric
    if metric != "accuracy":
        raise ValueError(f"{metric} of all depths is no mean over texts")
    first, second = (
        Scores(metric, np.mean([scores.rows for scores in found[name].values()], axis=0)) for name in (method, alone)
    )
    return difference(first, second)


def _points(gap: Metric) -> str:
    return f"{100 * gap.value:+.2f} ({100 * gap.low:+.2f} to {100 * gap.high:+.2f})"


if __name__ == "__main__":
    main()
