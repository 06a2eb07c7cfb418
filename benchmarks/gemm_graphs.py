"""Writes the packaged graphs that tell a machine's speed: a matrix product in fp32, one in int8, and a chain.

`edgebert doctor` times the first two, `edgebert bench` the chain of small products, on one thread and on several.

    python benchmarks/gemm_graphs.py edgebert/data

The weights are a ConstantOfShape, which ONNX Runtime folds and packs at load, so the files stay tiny.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir

ROWS, INNER, COLUMNS = 512, 768, 3072
CHAIN_ROWS, CHAIN_WIDTH, CHAIN_LENGTH = 20, 160, 64


def gemm(dtype: str) -> ir.Model:
    """A product [512, 768] x [768, 3072]: of floats, or of uint8 and int8 into int32."""
    left, right, result = {
        "fp32": (ir.DataType.FLOAT, np.float32, ir.DataType.FLOAT),
        "int8": (ir.DataType.UINT8, np.int8, ir.DataType.INT32),
    }[dtype]
    nodes, weight = _weight(right, [INNER, COLUMNS])
    activation = ir.val("activation", left, [ROWS, INNER])
    product = ir.node("MatMul" if dtype == "fp32" else "MatMulInteger", [activation, weight])
    return _model([*nodes, product], activation, [ROWS, COLUMNS], result)


def chain() -> ir.Model:
    """64 products [20, 160] x [160, 160] of floats, one after the other."""
    nodes, weight = _weight(np.float32, [CHAIN_WIDTH, CHAIN_WIDTH])
    activation = value = ir.val("activation", ir.DataType.FLOAT, [CHAIN_ROWS, CHAIN_WIDTH])
    # Its mean keeps what goes through the chain at one.
    scale = ir.node("Constant", [], {"value": ir.tensor(np.float32(1 / CHAIN_WIDTH))})
    mean = ir.node("Mul", [weight, scale.outputs[0]])
    nodes += [scale, mean]
    for _ in range(CHAIN_LENGTH):
        product = ir.node("MatMul", [value, mean.outputs[0]])
        nodes.append(product)
        value = product.outputs[0]
    return _model(nodes, activation, [CHAIN_ROWS, CHAIN_WIDTH], ir.DataType.FLOAT)


def _weight(dtype: type, shape: list[int]) -> tuple[list[ir.Node], ir.Value]:
    of_shape = ir.node("Constant", [], {"value": ir.tensor(np.array(shape, dtype=np.int64))})
    ones = ir.node("ConstantOfShape", [of_shape.outputs[0]], {"value": ir.tensor(np.ones(1, dtype=dtype))})
    return [of_shape, ones], ones.outputs[0]


def _model(nodes: list[ir.Node], activation: ir.Value, shape: list[int], dtype: ir.DataType) -> ir.Model:
    """The graph of these nodes, whose last makes what comes out."""
    output = nodes[-1].outputs[0]
    output.name, output.shape, output.type = "product", ir.Shape(shape), ir.TensorType(dtype)
    graph = ir.Graph([activation], [output], nodes=nodes, opset_imports={"": 18}, name="gemm")
    return ir.Model(graph, ir_version=10)


def main() -> None:
    """Write them into the folder given."""
    for name, model in (("fp32", gemm("fp32")), ("int8", gemm("int8")), ("chain", chain())):
        ir.save(model, Path(sys.argv[1]) / f"gemm-{name}.onnx")


if __name__ == "__main__":
    main()
