"""What int8 costs: six sets, six and three layers of MiniLM, on test, beside the naive static quantization.

    python benchmarks/int8_accuracy.py FOLDER DATA [--sets sst2_sent,...] [--targets cpu,openvino]

DATA is a folder with one for each set. Teachers and students are trained by `edgebert distill`'s recipe into FOLDER,
where a run that was cut off goes on. `int8` is the scheme that does best on dev,
with `--quant-drop` as it is by default. Naive static is ONNX Runtime's quantize_static as it comes: all its operators,
MinMax, 100 texts of train.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from common import heading
from onnxruntime.quantization import CalibrationDataReader, quantize_static

from edgebert import build
from edgebert.artifact import Artifact, problem_of
from edgebert.exporters.graph import MODEL
from edgebert.judging.evaluate import evaluate, text_of
from edgebert.judging.metrics import Metric, Scores, difference
from edgebert.runtimes.session import Feed
from edgebert.serving.model import Model, load
from edgebert.serving.tokens import TextTokenizer
from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.training.data import Data, match_labels, read, sample_texts
from edgebert.training.plan import TrainConfig

SETS = ("sst2_sent", "banking77", "clinc150", "qnli_small", "wnut17", "stsb")
LAYERS = 3
CALIBRATED_ON = 100
NAIVE = "naive static"


@dataclass(frozen=True)
class Row:
    """One quantized model: its test metric in fp32 and int8, the paired difference in points, how it came to be."""

    name: str
    layers: int
    way: str
    exact: Scores
    scores: Scores
    how: str

    @property
    def points(self) -> Metric:
        """int8 minus fp32, in points."""
        found = difference(self.scores, self.exact)
        return Metric(found.name, 100 * found.value, 100 * found.low, 100 * found.high)


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("data", type=Path, help="folder with a folder for each set")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--targets", default="cpu,openvino")
    parser.add_argument("--layers", type=int, default=LAYERS, help="of the students")
    parser.add_argument("--max-steps", type=int, default=-1, help="of each training; for trying this out")
    asked = parser.parse_args()
    logging.getLogger("edgebert").setLevel(logging.ERROR)
    rows: list[Row] = []
    for name in asked.sets.split(","):
        place = asked.data / name
        for checkpoint in _checkpoints(place, asked.folder / name, asked.layers, asked.max_steps):
            for row in _rows(checkpoint, place, asked.targets.split(",")):
                print(
                    f"{row.name}, {row.layers} layers, {row.way}: {row.points.value:+.2f}", file=sys.stderr, flush=True
                )
                rows.append(row)
    print(heading("What int8 costs on test"))
    _print(rows)


def _checkpoints(place: Path, folder: Path, layers: int, max_steps: int) -> Iterator[Artifact]:
    """The teacher, which is MiniLM itself where it needs no training, and its student."""
    config = TrainConfig(**({} if max_steps < 0 else {"max_steps": max_steps}))
    (student,) = build.distill("minilm", place, [layers], folder, config)
    teacher = folder / "teacher"
    yield open_checkpoint(str(teacher) if teacher.exists() else "minilm")
    yield student


def _rows(checkpoint: Artifact, place: Path, targets: Sequence[str]) -> Iterator[Row]:
    name, data = place.name, read(place)
    data = match_labels(data, checkpoint.manifest.labels, problem_of(checkpoint.manifest).data) or data
    layers = checkpoint.manifest.architecture.layers
    with tempfile.TemporaryDirectory() as folder:
        made = build.export(str(checkpoint.path), target="cpu", precision="fp32", data=place, out=Path(folder) / "fp32")
        exact = _scores(load(made[0].path), data)
        for target in targets:
            (rounded,) = build.export(
                str(checkpoint.path), target=target, precision="int8", data=place, out=Path(folder) / target
            )
            yield Row(name, layers, f"int8, {target}", exact, _scores(load(rounded.path), data), _how(rounded))
        yield Row(name, layers, NAIVE, exact, _scores(_naive(made[0], data, Path(folder)), data), "")


def _scores(opened: Model, data: Data) -> Scores:
    with opened as model:
        return evaluate(model, data.test)


def _how(artifact: Artifact) -> str:
    excluded = artifact.manifest.checks.get("excluded", {"modules": []})
    count = len(excluded["modules"])
    return artifact.manifest.needs["scheme"] + (f", {count} module{'s' * (count > 1)} in float" if count else "")


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, artifact: Artifact, data: Data) -> None:
        tokenizer = TextTokenizer(artifact)
        tokens = tokenizer.encode([text_of(row) for row in sample_texts(data.train, CALIBRATED_ON)])
        self._feeds = iter([tokenizer.collate([item]) for item in tokens])

    def get_next(self) -> Any:
        return next(self._feeds, None)


class _Engine:
    """ONNX Runtime on the quantized graph, as a session: edgebert's own reader knows no graph that others changed."""

    def __init__(self, model: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._engine = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self, feed: Feed) -> dict[str, Any]:
        names = [output.name for output in self._engine.get_outputs()]
        return dict(zip(names, self._engine.run(names, dict(feed)), strict=True))

    def facts(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        pass


def _naive(source: Artifact, data: Data, folder: Path) -> Model:
    model = onnx.load(source.path / MODEL)
    # It reads the types of initializers from value_info and trips over those of the dynamo export.
    initializers = {tensor.name for tensor in model.graph.initializer}
    kept = [info for info in model.graph.value_info if info.name not in initializers]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    quantize_static(model, folder / "naive.onnx", _Reader(source, data))
    return Model(source, _Engine(folder / "naive.onnx"), TextTokenizer(source))


def _print(rows: Sequence[Row]) -> None:
    print("| set | layers | way | metric | fp32 | int8 | points (paired 95 %) | wholly beyond -0.5 | how |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        points = row.points
        cells = (
            row.name, str(row.layers), row.way, row.scores.metric, f"{row.exact.metric_value().value:.4f}",
            f"{row.scores.metric_value().value:.4f}", f"{points.value:+.2f} ({points.low:+.2f} to {points.high:+.2f})",
            "yes" if points.high < -0.5 else "", row.how,
        )  # fmt: skip
        print(f"| {' | '.join(cells)} |")
    print()
    for way in dict.fromkeys(row.way for row in rows):
        values = [row.points.value for row in rows if row.way == way]
        print(f"{way}: {statistics.mean(values):+.2f} points on the mean, {min(values):+.2f} at worst.")


if __name__ == "__main__":
    main()
