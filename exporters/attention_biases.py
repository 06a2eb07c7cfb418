"""Attention without the biases that it does not need: the key's is left out, the value's is added behind it.

softmax(q (k + b)) is softmax(q k + q b): what is the same for all keys of a query changes no probability. And since
probabilities sum to one, a value's bias leaves attention as it came, under any mask: P (v + b) is P v + b. So it goes
through the output's product when the graph is made, into the bias that is added there anyway. Exact but for rounding.
Two sums over all hidden states of a layer are gone; each is read and written whole. What it gains on a GPU:
docs/results/gpu_tables.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgebert.exporters.constants import constant
from edgebert.exporters.readers import only_reader

# Inputs of MultiHeadAttention, of which one is for three biases together, and of SkipLayerNormalization.
_QUERY, _KEY, _VALUE, _BIASES = 0, 1, 2, 3
_BIAS = 4


def leave_out_biases(graph: ir.Graph) -> None:
    """Rewrite a graph of fused attention and LayerNorm in place."""
    attentions = [node for node in graph if node.op_type == "MultiHeadAttention"]
    for node in attentions:
        _take_out(graph, node)
        _leave_out_key(node)
        _move_value(graph, node)


def _take_out(graph: ir.Graph, attention: ir.Node) -> None:
    """Biases that are an input of attention itself become sums before it, which the others are."""
    joined = attention.inputs[_BIASES] if len(attention.inputs) > _BIASES else None
    concat = None if joined is None else joined.producer()
    if concat is None or concat.op_type != "Concat" or len(concat.inputs) != len((_QUERY, _KEY, _VALUE)):
        return
    for place, bias in zip((_QUERY, _KEY, _VALUE), concat.inputs, strict=True):
        value = attention.inputs[place]
        assert value is not None, "attention has queries, keys and values"
        summed = ir.node("Add", [value, bias])
        made = summed.outputs[0]
        made.name, made.type, made.shape = f"{value.name}.with_bias", value.type, value.shape
        graph.insert_before(attention, summed)
        attention.replace_input_with(place, made)
    attention.replace_input_with(_BIASES, None)


def _leave_out_key(attention: ir.Node) -> None:
    summed = _sum(attention.inputs[_KEY])
    if summed is not None:
        attention.replace_input_with(_KEY, summed[0])


def _move_value(graph: ir.Graph, attention: ir.Node) -> None:
    """Where the output's product alone reads attention, and is followed by a sum with a bias."""
    summed = _sum(attention.inputs[_VALUE])
    product = only_reader(attention.outputs[0], "MatMul")
    norm = None if product is None else only_reader(product.outputs[0], "SkipLayerNormalization")
    if summed is None or product is None or norm is None or norm.inputs[0] is not product.outputs[0]:
        return
    weight, bias = _content(product.inputs[1]), _content(norm.inputs[_BIAS] if len(norm.inputs) > _BIAS else None)
    if weight is None or bias is None:
        return
    # Made once, so that it may as well be exact.
    moved = summed[1].astype(np.float64) @ weight.astype(np.float64)
    both = constant(f"{norm.outputs[0].name}.bias", (bias + moved).astype(bias.dtype))
    graph.register_initializer(both)
    norm.replace_input_with(_BIAS, both)
    attention.replace_input_with(_VALUE, summed[0])


def _sum(value: ir.Value | None) -> tuple[ir.Value, npt.NDArray[Any]] | None:
    """What a bias is added to, and the bias."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Add":
        return None
    for term, other in (node.inputs, node.inputs[::-1]):
        bias = _content(other)
        if term is not None and term.producer() is not None and bias is not None and bias.ndim == 1:
            return term, bias
    return None


def _content(value: ir.Value | None) -> npt.NDArray[Any] | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()
