"""The mask of padding in a fused graph, as what is added to scores, and as the number of tokens of each text.

Attention that is told lengths skips padding and reads no mask: ONNX Runtime's CUDA provider has faster kernels for it
in 16 bits. Lengths say nothing of a mask with padding elsewhere than on the right, which sessions must refuse then.
Source: MultiHeadAttention's ``key_padding_mask`` of one dimension, ContribOperators.md of microsoft/onnxruntime.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgebert.exporters.constants import constant

_MASK, _OURS = "attention_mask", "padding."
# How a mask of zeros and ones becomes one that is added to scores.
_ARITHMETIC = frozenset({"Cast", "Expand", "Mul", "Sub", "Unsqueeze"})
# Inputs of MultiHeadAttention.
_LENGTHS, _ADDED = 4, 5


def lengths(graph: ir.Graph) -> ir.Value:
    """int32 [batch], the tokens of each text; made where the graph has them not."""
    known = [value for node in graph for value in node.outputs if value.name == f"{_OURS}lengths"]
    if known:
        return known[0]
    mask = next(value for value in graph.inputs if value.name == _MASK)
    axis = constant(f"{_OURS}axis", np.array([1], np.int64))
    graph.register_initializer(axis)
    total = ir.node("ReduceSum", [mask, axis], {"keepdims": 0})
    found = ir.node("Cast", total.outputs, {"to": ir.DataType.INT32})
    shape = None if mask.shape is None else ir.Shape(mask.shape[:1])
    for node, name, kind in ((total, "total", ir.DataType.INT64), (found, "lengths", ir.DataType.INT32)):
        value = node.outputs[0]
        value.name, value.dtype, value.shape = f"{_OURS}{name}", kind, shape
    graph.insert_before(graph[0], [total, found])
    return found.outputs[0]


def is_padding(value: ir.Value) -> bool:
    """Whether what is added to scores is made of nothing but the mask, by :func:`edgebert.exporters.graph.trace`."""
    node = value.producer()
    if node is None:
        return value.name == _MASK
    rest = [source for source in node.inputs if source is not None and not source.is_initializer()]
    # To which shape it is widened does not matter.
    rest = rest[:1] if node.op_type == "Expand" else rest
    return node.op_type in _ARITHMETIC and len(rest) == 1 and is_padding(rest[0])


def mask_by_lengths(graph: ir.Graph) -> bool:
    """Tell attention lengths in place of a mask, where every layer has no more than that; returns whether."""
    attentions = [node for node in graph if node.op_type == "MultiHeadAttention"]
    if not attentions or not all(_has_only_padding(node) for node in attentions):
        return False
    known = lengths(graph)
    for node in attentions:
        node.replace_input_with(_LENGTHS, known)
        node.replace_input_with(_ADDED, None)
    return True


def _has_only_padding(attention: ir.Node) -> bool:
    if len(attention.inputs) <= _ADDED:
        return False
    added = attention.inputs[_ADDED]
    return attention.inputs[_LENGTHS] is None and added is not None and is_padding(added)
