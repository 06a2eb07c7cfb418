"""What engines make of a graph: one operator for a GELU, and no fusion that loses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import tiny
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tiny import Exports

from edgebert.exporters.gelu import order_gelu
from edgebert.exporters.graph import MODEL
from edgebert.runtimes.ort import unwanted_fusions

LAYERS = 2
# Heads with a GELU of their own.
IN_HEAD = {("electra", "text-classification"), *((family, "fill-mask") for family in tiny.FAMILIES)}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(("family", "task"), tiny.PAIRS)
def test_a_gelu_is_one_operator_in_the_graph_that_runs(
    family: str, task: str, precision: str, exports: Exports, tmp_path: Path
) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    model = exports.artifact(family, task, LAYERS, precision).path / MODEL
    onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=unwanted_fusions(precision)
    )
    found = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert found["Gelu"] + found["BiasGelu"] == LAYERS + ((family, task) in IN_HEAD)
    assert found["Erf"] == found["SkipLayerNormalization"] == 0


def written(half: float = 0.5, *, read_twice: bool = False, outer: str = "x") -> onnx.ModelProto:
    """``outer * (half * (1 + erf(x / √2)))``, and what stands inside as a second output."""
    constants = {"root": np.sqrt(2), "one": 1.0, "half": half}
    nodes = [
        helper.make_node("Div", ["x", "root"], ["a"]),
        helper.make_node("Erf", ["a"], ["b"]),
        helper.make_node("Add", ["b", "one"], ["c"]),
        helper.make_node("Mul", ["half", "c"], ["d"]),
        helper.make_node("Mul", [outer, "d"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in ("x", "z", "y", "d")]
    weights = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "gelu", values[:2], values[2:] if read_twice else values[2:3], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def test_the_order_changes_no_bit() -> None:
    x = np.concatenate([np.linspace(-9, 9, 10_001), [0.0, -0.0, 1e-30, -1e30]]).astype(np.float32)
    model = ir.from_proto(written())
    assert order_gelu(model.graph) == 1
    products = [[value.name for value in node.inputs if value] for node in model.graph if node.op_type == "Mul"]
    assert products == [["x", "c"], ["d", "half"]]
    before, after = (
        np.asarray(list(ReferenceEvaluator(one).run(None, {"x": x, "z": x}))) for one in (written(), ir.to_proto(model))
    )
    assert np.array_equal(before, after)


@pytest.mark.parametrize(
    "other",
    [written(half=0.25), written(read_twice=True), written(outer="z")],
    ids=["quarter", "read twice", "no gelu"],
)
def test_what_is_no_gelu_stays(other: onnx.ModelProto) -> None:
    model = ir.from_proto(other)
    assert order_gelu(model.graph) == 0
    assert ir.to_proto(model).graph.node == other.graph.node
