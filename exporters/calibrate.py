"""The ranges of the activations that Linears read, found by running the fp32 graph on real text.

Only running extremes are kept, and one batch at a time is in memory, so that calibration may see any number of texts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

from edgebert.artifact import Artifact
from edgebert.exporters.graph import MODEL, save_graph
from edgebert.runtimes.session import Feed

Float = npt.NDArray[np.float32]

# Of an activation that is always zero; nothing smaller means anything, and float32 ends soon below.
_LEAST_SCALE = 2.0**-100


@dataclass(frozen=True)
class Range:
    """The least and the greatest value that an activation took."""

    low: float
    high: float


def linear_inputs(graph: ir.Graph) -> list[ir.Value]:
    """What the graph multiplies by constant matrices, each activation once."""
    found = {
        node.inputs[0]: None
        for node in graph
        if node.op_type in ("MatMul", "Gemm") and node.inputs[1] is not None and node.inputs[1].is_initializer()
    }
    return [value for value in found if value is not None]


def measure_ranges(source: Artifact, feeds: Iterable[Feed]) -> dict[str, Range]:
    """The range of each activation that a Linear of the portable graph reads, by name; padding does not count."""
    with tempfile.TemporaryDirectory() as folder:
        session, names = _watched(source, Path(folder))
        low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
        for feed in feeds:
            mask = feed["attention_mask"].astype(bool)
            for index, values in enumerate(session.run(names, dict(feed))):
                # [batch, sequence, d], or of first tokens alone [batch, 1, d] and, behind a head's pooling, [batch, d].
                real = values[mask] if values.shape[:2] == mask.shape else values
                low[index], high[index] = min(low[index], real.min()), max(high[index], real.max())
    return {name: Range(float(low[i]), float(high[i])) for i, name in enumerate(names)}


def _watched(source: Artifact, folder: Path) -> tuple[Any, list[str]]:
    """A session on the graph that gives these activations instead of its outputs."""
    model = ir.load(source.path / MODEL)
    watched = linear_inputs(model.graph)
    model.graph.outputs[:] = watched
    save_graph(model, folder)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_mem_pattern = False
    session = onnxruntime.InferenceSession(str(folder / MODEL), options, providers=["CPUExecutionProvider"])
    return session, [str(value.name) for value in watched]


def scale_and_zero(found: Range) -> tuple[Float, npt.NDArray[np.uint8]]:
    """Scale and zero point that map a range, widened to hold zero, onto 0 to 255; zero itself stays exact.

    Unsigned, since ONNX Runtime leaves signed activations that several products read in float.
    """
    low, high = min(found.low, 0.0), max(found.high, 0.0)
    scale = max((high - low) / 255, _LEAST_SCALE)
    return np.array(scale, np.float32), np.array(round(-low / scale), np.uint8)
