"""Our dynamic quantizer against ONNX Runtime's on one fp32 artifact: seconds and bytes, in turn."""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from pathlib import Path

import onnx
import onnx_ir as ir
from common import heading, in_turn, spread
from onnxruntime.quantization import QuantType, quantize_dynamic

from edgebert.exporters.graph import MODEL, save_graph
from edgebert.exporters.quantize import DynamicConfig, Rewriter, quantize_graph

ROUNDS = 3


def main() -> None:
    """Print the table for the fp32 artifact given on the command line."""
    logging.getLogger().setLevel(logging.ERROR)
    graph = Path(sys.argv[1]) / MODEL
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours", Path(folder) / "theirs"
        ours.mkdir()
        theirs.mkdir()
        jobs = {"edgebert": lambda: _ours(graph, ours), "onnxruntime": lambda: _theirs(graph, theirs)}
        times = in_turn(jobs, ROUNDS)
        sizes = {"edgebert": (ours / MODEL).stat().st_size, "onnxruntime": (theirs / MODEL).stat().st_size}
    print(heading("Dynamic int8: seconds and bytes"))
    print("| quantizer | seconds, median (least to most) | MB |\n|---|---|---|")
    for name, values in times.items():
        print(f"| {name} | {spread(values)} | {sizes[name] / 1e6:.1f} |")


def _ours(graph: Path, out: Path) -> float:
    start = time.perf_counter()
    model = ir.load(graph)
    quantize_graph(Rewriter(model.graph, DynamicConfig.for_this_cpu("int8").limit), ())
    save_graph(model, out)
    return time.perf_counter() - start


def _theirs(graph: Path, out: Path) -> float:
    start = time.perf_counter()
    model = onnx.load(graph)
    # It reads the types of initializers from value_info and trips over those of the dynamo export.
    initializers = {tensor.name for tensor in model.graph.initializer}
    kept = [info for info in model.graph.value_info if info.name not in initializers]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    operators = ["MatMul", "Gemm", "Gather"]
    quantize_dynamic(model, out / MODEL, op_types_to_quantize=operators, weight_type=QuantType.QInt8, per_channel=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
