"""What golden vectors must tell apart: int8 sums that saturate, and float sums in another order.

    python benchmarks/saturation.py ARTIFACT...

x86 without VNNI adds pairs of 8-bit products in 16 bits, where weights of the whole range saturate; numpy does the same
here. Another order is that of the graph as it stands, which ONNX Runtime otherwise fuses. ARTIFACTs are int8-dynamic.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from common import heading
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from edgebert.artifact import Artifact
from edgebert.exporters.graph import MODEL
from edgebert.judging import parity
from edgebert.serving.tokens import TextTokenizer

Array = npt.NDArray[Any]


class _InPairs(OpRun):  # type: ignore[misc]
    """MatMulInteger by pairs of products, in 16 bits."""

    op_domain = ""

    def _run(self, left: Array, right: Array, zero: Array, _: Array) -> tuple[Array]:
        products = np.zeros((*left.shape[:-1], right.shape[1]), np.int32)
        a, b = left.astype(np.int32), right.astype(np.int32)
        for k in range(0, a.shape[-1], 2):
            pair = a[..., k, None] * b[k] + a[..., k + 1, None] * b[k + 1]
            products += np.clip(pair, -(2**15), 2**15 - 1)
        return (products - np.int32(zero) * b.sum(axis=0, dtype=np.int32),)


_InPairs.__name__ = "MatMulInteger"


def main() -> None:
    """Print the table for the artifacts given on the command line."""
    print(heading("What saturates, and what is summed in another order"))
    print("| artifact | what | largest output | mean error | median | most | as a share of the largest, mean |")
    print("|---|---|---|---|---|---|---|")
    for path in sys.argv[1:]:
        artifact = Artifact.open(path)
        tokenizer = TextTokenizer(artifact)
        feeds = [tokenizer.collate([tokens]) for tokens in tokenizer.encode(parity.sample())]
        model = onnx.load(artifact.path / MODEL)
        truth = _outputs(ReferenceEvaluator(model), feeds)
        fused = _outputs(_session(artifact.path / MODEL, fused=True), feeds)
        plain = _outputs(_session(artifact.path / MODEL, fused=False), feeds)
        saturated = _outputs(ReferenceEvaluator(model, new_ops=[_InPairs]), feeds)
        for what, one, other in (
            ("saturating", saturated, truth), ("numpy", truth, fused), ("not fused", plain, fused)
        ):  # fmt: skip
            print(f"| {artifact.path.name} | {what} | {_row(one, other)} |")


def _session(model: Path, *, fused: bool) -> Any:
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if fused else levels.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _outputs(engine: Any, feeds: list[dict[str, Array]]) -> list[Array]:
    return [engine.run(None, feed)[0].ravel() for feed in feeds]


def _row(one: list[Array], other: list[Array]) -> str:
    errors = [float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True)]
    largest = max(float(np.abs(row).max()) for row in other)
    numbers = [largest, np.mean(errors), np.median(errors), max(errors)]
    return " | ".join([*(f"{number:.2g}" for number in numbers), f"{np.mean(errors) / max(1.0, largest):.2%}"])


if __name__ == "__main__":
    main()
