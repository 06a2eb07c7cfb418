"""Latency of shapes that nobody has built: from fresh models of two depths each, measured on this machine.

Every layer of a model does the same work, so the time of one text is a + b · layers. How well that holds, by
precision and machine, is measured with ``benchmarks/latency_by_depth.py``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from edgebert import stage
from edgebert.artifact import Artifact
from edgebert.building.exporting import Exporter
from edgebert.errors import EdgebertError
from edgebert.judging import parity
from edgebert.judging.bench import measure
from edgebert.judging.conditions import Conditions
from edgebert.judging.latency import BenchConfig, Contender
from edgebert.progress import bar
from edgebert.shaping.sizes import Shape, weight_bytes
from edgebert.tasks import TASKS

_TARGET = "cpu"


@dataclass(frozen=True)
class Line:
    """Milliseconds (p50) of one text at ``depths``, as measured, and the line through them."""

    depths: tuple[int, int]
    ms: tuple[float, float]

    def at(self, layers: int) -> float:
        """The predicted milliseconds of so many layers."""
        (near, far), (first, second) = self.depths, self.ms
        return first + (second - first) * (layers - near) / (far - near)


@dataclass(frozen=True)
class Prediction:
    """The lines of one width by precision, for shapes that differ in depth alone, and how calm the machine was."""

    lines: dict[str, Line]
    conditions: Conditions | None


def predict(
    source: Artifact, shapes: Sequence[Shape], precisions: Sequence[str], bench: BenchConfig
) -> list[Prediction]:
    """For each shape the line that it lies on. Tokenizer, task and family are the source's.

    Raises EnvironmentMissing where a model cannot be measured here.
    """
    groups = {_width(shape): [s.layers for s in shapes if _width(s) == _width(shape)] for shape in shapes}
    found = {}
    with TemporaryDirectory(prefix="edgebert-") as folder:
        for width in bar(list(groups), "measuring"):
            depths = measured_depths(max(groups[width]))
            found[width] = _measure(source, width, depths, precisions, bench, Path(folder) / "work")
    return [found[_width(shape)] for shape in shapes]


def measured_depths(deepest: int) -> tuple[int, int]:
    """The two depths to measure: about a quarter and three quarters of the deepest, so that the rest is near them."""
    near = max(1, round(deepest / 4))
    return near, max(near + 1, round(3 * deepest / 4))


def _width(shape: Shape) -> Shape:
    return replace(shape, layers=1)


def _measure(
    source: Artifact, width: Shape, depths: tuple[int, int], precisions: Sequence[str], bench: BenchConfig, work: Path
) -> Prediction:
    texts = parity.sample(TASKS[source.manifest.task])
    # As PyTorch has it, cut, and as graphs of two depths, which other precisions come from.
    stage.require_space(work, 5 * weight_bytes(replace(width, layers=depths[1]))["fp32"], "measuring")
    built = list(_built(source, replace(width, layers=depths[1]), depths, precisions, work))
    # The reference: the slowest of them in fp32, or in what there is.
    found = measure([Contender(artifact.path, _TARGET) for artifact in built], texts, bench, reference=1)
    shutil.rmtree(work)
    times = []
    for result in found.results:
        if isinstance(result, EdgebertError):
            raise result
        times.append(result.p50)
    pairs = zip(times[::2], times[1::2], strict=True)
    lines = {name: Line(depths, pair) for name, pair in zip(precisions, pairs, strict=True)}
    return Prediction(lines, found.conditions)


def _built(
    source: Artifact, shape: Shape, depths: Sequence[int], precisions: Sequence[str], work: Path
) -> Iterator[Artifact]:
    """Fresh models, right in shape and speed: for each precision one at each depth."""
    from edgebert.shaping.fresh import FreshConfig, fresh

    architecture = replace(
        source.manifest.architecture, layers=shape.layers, hidden=shape.hidden, heads=shape.heads, ffn=shape.ffn
    )
    deepest = stage.run("fresh", fresh, source, FreshConfig(architecture), work / "fresh")
    exporter = Exporter(deepest, parity.sample(), "", work, depths=depths)
    for precision in precisions:
        for depth in depths:
            yield exporter.unproven(exporter.truncated(range(depth)), _TARGET, precision)
