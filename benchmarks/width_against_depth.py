"""Fewer layers or narrower ones: the task metric on test and latency, at equal parameters and at equal latency.

    python benchmarks/width_against_depth.py FOLDER TEACHER DATA [--shapes 3x1536,6x384,...]

A shape is layers x feed-forward size. Layers are the first of --init-from, the pre-trained checkpoint; neurons of a
narrower feed-forward layer are those that matter most on train. Every shape is distilled from TEACHER with the same
settings into FOLDER, where a run that was cut off goes on. --timed measures them all, in turn: for an idle machine.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common import heading

from edgebert import build
from edgebert.artifact import Artifact
from edgebert.errors import EdgebertError, UsageError
from edgebert.judging.bench import measure
from edgebert.judging.conditions import conditions_facts
from edgebert.judging.evaluate import evaluate, text_of
from edgebert.judging.latency import BenchConfig, Contender
from edgebert.judging.metrics import Scores, difference
from edgebert.runtimes.reference import open as open_torch
from edgebert.runtimes.session import SessionConfig
from edgebert.serving.model import Model
from edgebert.serving.tokens import Text, TextTokenizer
from edgebert.shaping import sizes
from edgebert.shaping.checkpoint import open_checkpoint, shape_of
from edgebert.training.data import Data, match_labels, read
from edgebert.training.plan import TrainConfig

PRECISIONS = ("fp32", "int8-dynamic")


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("teacher", help="checkpoint, fine-tuned for the labels of the data")
    parser.add_argument("data", help="folder or file")
    parser.add_argument("--init-from", default="minilm")
    parser.add_argument("--shapes", default="3x1536,6x384,4x1536,6x768")
    parser.add_argument("--max-steps", type=int, help="of each training; for trying this out")
    parser.add_argument("--timed", action="store_true", help="measure latencies too")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    logging.getLogger("edgebert").setLevel(logging.ERROR)
    shapes = [tuple(int(number) for number in word.split("x")) for word in asked.shapes.split(",")]
    students = [_student(asked, layers, ffn) for layers, ffn in shapes]
    data = _in_terms_of(students[0], read(asked.data), asked.data)
    scores = [_scores(student, data) for student in students]
    texts = [text_of(row) for row in data.test]
    times = _times(students, texts, asked.threads) if asked.timed else {}
    print(heading(f"Width against depth: {data.name}, {len(texts)} texts of test, {asked.threads} threads"))
    _print(students, scores, times)


def _student(asked: argparse.Namespace, layers: int, ffn: int) -> Artifact:
    place, start = asked.folder / f"{layers}x{ffn}", asked.init_from
    if ffn != open_checkpoint(start).manifest.architecture.ffn:
        start = str(place / "narrow")
        if not Path(start).exists():
            build.resize(asked.init_from, start, asked=build.Asked(ffn=ffn), data=asked.data)
    config = TrainConfig(max_steps=asked.max_steps)
    (made,) = build.distill(asked.teacher, asked.data, [layers], place, config, init_from=start)
    return made


def _in_terms_of(student: Artifact, data: Data, place: str) -> Data:
    matched = match_labels(data, student.manifest.labels)
    if matched is None:
        raise UsageError("labels of the data are not the checkpoint's", place, "give a fine-tuned checkpoint")
    return matched


def _scores(checkpoint: Artifact, data: Data) -> Scores:
    with Model(checkpoint, open_torch(checkpoint, SessionConfig()), TextTokenizer(checkpoint)) as model:
        return evaluate(model, data.test)


def _times(students: Sequence[Artifact], texts: Sequence[Text], threads: int) -> dict[str, list[float]]:
    """Median milliseconds of one text, of every student in each precision."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for precision in PRECISIONS:
            contenders = []
            for number, student in enumerate(students):
                out = Path(folder) / f"{precision}-{number}"
                (made,) = build.export(str(student.path), precision=precision, out=out)
                contenders.append(Contender(made.path, made.manifest.target))
            measured = measure(contenders, texts, BenchConfig(threads=threads))
            for result in measured.results:
                if isinstance(result, EdgebertError):
                    raise result
                found.setdefault(precision, []).append(result.p50)
            facts = conditions_facts(measured.conditions)
            print(f"{precision}: {'calm' if facts['stable'] else 'UNSTABLE: ' + '; '.join(facts['reasons'])}\n")
    return found


def _print(students: Sequence[Artifact], scores: Sequence[Scores], times: dict[str, list[float]]) -> None:
    heads = ["layers x ffn", "parameters", scores[0].metric, "points to the first (paired 95 %)"]
    heads += [f"{precision} p50 ms" for precision in times]
    print(f"| {' | '.join(heads)} |\n|---{'|---' * (len(heads) - 1)}|")
    for number, (student, own) in enumerate(zip(students, scores, strict=True)):
        shape, gap = student.manifest.architecture, difference(own, scores[0])
        cells = [
            f"{shape.layers} x {shape.ffn}", f"{sizes.parameters(shape_of(student)):,}",
            f"{own.metric_value().value:.4f}",
            f"{100 * gap.value:+.2f} ({100 * gap.low:+.2f} to {100 * gap.high:+.2f})" if number else "",
            *(f"{of_all[number]:.2f}" for of_all in times.values()),
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
