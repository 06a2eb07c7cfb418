"""What 16 bits may not take from a graph: sums, exponentials, and the tails of GELU."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgebert.exporters.mixed import mix
from edgebert.runtimes.widened import widened

X = np.linspace(-4, 4, 161, dtype=np.float32)


def gelu() -> onnx.ModelProto:
    """``(x * (1 + erf(x / √2))) * 0.5``, as our graphs have it."""
    numbers = {"root": math.sqrt(2), "one": 1.0, "half": 0.5}
    nodes = [("Div", "x", "root", "scaled"), ("Add", "erf", "one", "above"), ("Mul", "x", "above", "twice")]
    made = [helper.make_node(kind, [left, right], [out]) for kind, left, right, out in nodes]
    made.insert(1, helper.make_node("Erf", ["scaled"], ["erf"]))
    made.append(helper.make_node("Mul", ["twice", "half"], ["y"]))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [len(X)]) for name in ("x", "y")]
    constants = [helper.make_tensor(name, TensorProto.FLOAT, [], [number]) for name, number in numbers.items()]
    graph = helper.make_graph(made, "gelu", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(("half", "digits"), [("fp16", 2**-10), ("bf16", 2**-7)])
def test_the_tails_of_gelu_keep_their_digits(half: str, digits: float) -> None:
    model = ir.from_proto(onnx.shape_inference.infer_shapes(gelu()))
    mix(model.graph, half, "a test")
    content = widened(ir.to_proto(model).SerializeToString())
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    # Numbers that 16 bits have.
    given = X.astype(np.float16 if half == "fp16" else ml_dtypes.bfloat16).astype(np.float32)
    (found,) = session.run(None, {"x": given})
    exact = [0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in given.tolist()]
    # One more than erf, near -1 and rounded to bf16, would be 1.4 times as much at -3, and nothing at -3.5.
    np.testing.assert_allclose(found, exact, rtol=2 * digits, atol=1e-6)
