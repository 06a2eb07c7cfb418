"""A bf16 graph as ONNX Runtime's CPU provider can run it: every node computes in float32, its results rounded to bf16.

That provider has next to no bf16 kernels; for fp16 it puts such casts in itself. What comes out is what hardware gives
that sums bf16 products in float32, as all of it does.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

_NARROW, _WIDE = ir.DataType.BFLOAT16, ir.DataType.FLOAT


def widened(model: bytes) -> bytes:
    """The graph with float32 in place of bf16 inside of nodes; values between them stay bf16."""
    graph = ir.from_proto(onnx.load_model_from_string(model))
    for node in list(graph.graph):
        if node.op_type != "Cast" and any(value.dtype == _NARROW for value in _values(node)):
            _widen(graph.graph, node)
    content: bytes = ir.to_proto(graph).SerializeToString()
    return content


def _values(node: ir.Node) -> list[ir.Value]:
    return [value for value in (*node.inputs, *node.outputs) if value is not None]


def _widen(graph: ir.Graph, node: ir.Node) -> None:
    for place, value in enumerate(node.inputs):
        if value is not None and value.dtype == _NARROW:
            before = _cast(value, _WIDE)
            graph.insert_before(node, before)
            node.replace_input_with(place, before.outputs[0])
    for value in node.outputs:
        if value.dtype == _NARROW:
            after = _cast(value, _NARROW)
            ir.convenience.replace_all_uses_with(value, after.outputs[0])
            # Only now, or the cast would read itself.
            after.replace_input_with(0, value)
            value.dtype = _WIDE
            graph.insert_after(node, after)


def _cast(value: ir.Value, to: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [value], {"to": to})
    node.outputs[0].dtype, node.outputs[0].shape = to, value.shape
    return node
