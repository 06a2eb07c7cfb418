"""Writes the two packaged graphs that `edgebert doctor` times: one matrix product in fp32, one in int8.

    python benchmarks/gemm_graphs.py edgebert/data

The weights are a ConstantOfShape, which ONNX Runtime folds and packs at load, so the files stay tiny.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir

ROWS, INNER, COLUMNS = 512, 768, 3072


def gemm(dtype: str) -> ir.Model:
    """A product [512, 768] x [768, 3072]: of floats, or of uint8 and int8 into int32."""
    left, right, result = {
        "fp32": (ir.DataType.FLOAT, np.float32, ir.DataType.FLOAT),
        "int8": (ir.DataType.UINT8, np.int8, ir.DataType.INT32),
    }[dtype]
    activation = ir.val("activation", left, [ROWS, INNER])
    shape = ir.node("Constant", [], {"value": ir.tensor(np.array([INNER, COLUMNS], dtype=np.int64))})
    ones = ir.node("ConstantOfShape", [shape.outputs[0]], {"value": ir.tensor(np.ones(1, dtype=right))})
    operator = "MatMul" if dtype == "fp32" else "MatMulInteger"
    product = ir.node(operator, [activation, ones.outputs[0]])
    output = product.outputs[0]
    output.name, output.shape, output.type = "product", ir.Shape([ROWS, COLUMNS]), ir.TensorType(result)
    graph = ir.Graph([activation], [output], nodes=[shape, ones, product], opset_imports={"": 18}, name="gemm")
    return ir.Model(graph, ir_version=10)


def main() -> None:
    """Write both into the folder given."""
    for dtype in ("fp32", "int8"):
        ir.save(gemm(dtype), Path(sys.argv[1]) / f"gemm-{dtype}.onnx")


if __name__ == "__main__":
    main()
