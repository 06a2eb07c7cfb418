"""What int8 costs: six sets, six and three layers of MiniLM, on test, beside the naive static quantization.

    python benchmarks/int8_accuracy.py FOLDER DATA [--sets sst2_sent,...] [--targets cpu,openvino]

DATA is a folder with one for each set. Teachers and students are trained by `edgebert distill`'s recipe into FOLDER,
where a run that was cut off goes on (two cores: about an hour for all six). `int8` is the scheme that does best on dev,
with `--quant-drop` as it is by default. Naive static is ONNX Runtime's quantize_static as it comes: all its operators,
MinMax, 100 texts of train.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from common import heading
from onnxruntime.quantization import CalibrationDataReader, quantize_static

from edgebert import build, stage
from edgebert.artifact import Artifact, Manifest, problem_of
from edgebert.exporters.graph import MODEL, copy_config
from edgebert.judging.evaluate import evaluate, text_of
from edgebert.judging.metrics import Metric, Scores, difference
from edgebert.serving.model import load, open_model
from edgebert.serving.tokens import TextTokenizer
from edgebert.shaping.checkpoint import copy_companions, open_checkpoint
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
            rows += _rows(checkpoint, place, asked.targets.split(","))
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
        exact = _scores(made[0], data)
        for target in targets:
            (rounded,) = build.export(
                str(checkpoint.path), target=target, precision="int8", data=place, out=Path(folder) / target
            )
            yield Row(name, layers, f"int8, {target}", exact, _scores(rounded, data), _how(rounded))
        naive = _naive(made[0], data, Path(folder) / "naive")
        yield Row(name, layers, NAIVE, exact, _scores(naive, data), "")


def _scores(artifact: Artifact, data: Data) -> Scores:
    opened = open_model(artifact.path) if artifact.path.name == "naive" else load(artifact.path)
    with opened as model:
        return evaluate(model, data.test)


def _how(artifact: Artifact) -> str:
    excluded = artifact.manifest.checks.get("excluded", {"modules": []})
    return f"{artifact.manifest.needs['scheme']}, {len(excluded['modules'])} modules in float"


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, artifact: Artifact, data: Data) -> None:
        tokenizer = TextTokenizer(artifact)
        tokens = tokenizer.encode([text_of(row) for row in sample_texts(data.train, CALIBRATED_ON)])
        self._feeds = iter([tokenizer.collate([item]) for item in tokens])

    def get_next(self) -> Any:
        return next(self._feeds, None)


def _naive(source: Artifact, data: Data, out: Path) -> Artifact:
    def quantize(source: Artifact, config: Any, folder: Path) -> Manifest:
        model = onnx.load(source.path / MODEL)
        # It reads the types of initializers from value_info and trips over those of the dynamo export.
        initializers = {tensor.name for tensor in model.graph.initializer}
        kept = [info for info in model.graph.value_info if info.name not in initializers]
        del model.graph.value_info[:]
        model.graph.value_info.extend(kept)
        quantize_static(model, folder / MODEL, _Reader(source, data))
        copy_config(source, folder)
        copy_companions(source, folder)
        return replace(source.manifest, precision="int8-static")

    return stage.run("naive", quantize, source, source.manifest.architecture, out)


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
