"""Constants of a graph."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import onnx_ir as ir


def constant(name: str, array: npt.NDArray[Any]) -> ir.Value:
    """An initializer, ready to be registered in a graph."""
    return initializer(ir.tensor(array, name=name))


def initializer(tensor: ir.TensorProtocol) -> ir.Value:
    """The same of a tensor, which may have no values yet."""
    shape = ir.Shape(tensor.shape.numpy())
    return ir.Value(name=tensor.name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
