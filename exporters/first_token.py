"""A last layer that computes the first token alone, where the head reads nothing else.

A classifier's head reads the first token of the last layer. For that token's answer keys and values of all tokens are
needed, but its query, its attention, and all that follows them only of itself: five sixths of the layer's products
are computed to be thrown away. So the first token is taken as early as nothing else is read, before each operator
that treats every token alike. Exact, since what is still computed is computed from the same numbers. What it gains:
benchmarks/rewrites.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgebert.exporters.constants import constant

# Operators that compute every element from those at the same place in their inputs.
ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Erf", "Pow", "Relu", "Sigmoid", "Sqrt", "Tanh"})
# Where a value is read: by which node, as which of its inputs.
Use = tuple[ir.Node, int]


def read_first_token(graph: ir.Graph) -> bool:
    """Rewrite a graph without unused nodes whose head reads one token, in place; returns whether there was such."""
    head = next((node for node in graph if _selects_first(node)), None)
    if head is None:
        return False
    asked, narrowed = _reach(graph, head)
    if not narrowed:
        return False
    for node, axis in narrowed.items():
        if node.op_type == "Reshape":
            node.replace_input_with(1, _constant(graph, f"{node.outputs[0].name}.shape", _sizes(node, axis) or []))
            # Sizes before the axis are copied, as a 0 says only without this.
            node.attributes.pop("allowzero", None)
        node.outputs[0].shape = _shape(node.outputs[0], axis)
    for value, uses in asked.items():
        if value.producer() not in narrowed:
            _slice(graph, value, uses)
    return True


def _selects_first(node: ir.Node) -> bool:
    """Whether a node takes the first of the sequence out of hidden states [batch, sequence, width]."""
    if node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 1:
        return False
    states, index = node.inputs
    place = None if index is None else index.const_value
    return states is not None and _rank(states) == 3 and place is not None and place.numpy().tolist() == 0


def _reach(graph: ir.Graph, head: ir.Node) -> tuple[dict[ir.Value, dict[Use, int]], dict[ir.Node, int]]:
    """The values of which some readers need the first token alone, and the nodes of which all do; each with the axis.

    Backwards from the head: once a node's turn comes, what all its readers need is known.
    """
    asked: dict[ir.Value, dict[Use, int]] = {}
    narrowed: dict[ir.Node, int] = {}
    _ask(asked, head, [1, None])
    for node in reversed(graph):
        readers = asked.get(node.outputs[0], {})
        axis = next(iter(readers.values()), None)
        if axis is None or set(_uses(node.outputs[0])) != readers.keys() or set(readers.values()) != {axis}:
            continue
        places = None if node.outputs[0].is_graph_output() else _axes(node, axis)
        if places is not None:
            narrowed[node] = axis
            _ask(asked, node, places)
    return asked, narrowed


def _ask(asked: dict[ir.Value, dict[Use, int]], node: ir.Node, places: list[int | None]) -> None:
    for index, (source, place) in enumerate(zip(node.inputs, places, strict=True)):
        if source is not None and place is not None:
            asked.setdefault(source, {})[node, index] = place


def _uses(value: ir.Value) -> Iterator[Use]:
    return ((use.node, use.idx) for use in value.uses())


def _slice(graph: ir.Graph, value: ir.Value, uses: dict[Use, int]) -> None:
    """Give those who need only the first along an axis only that."""
    for axis in set(uses.values()):
        bounds = [_constant(graph, f"first.{name}", [at]) for name, at in ((0, 0), (1, 1), (f"axis{axis}", axis))]
        cut = ir.Node("", "Slice", [value, *bounds], name=f"{value.name}.first{axis}")
        cut.outputs[0].name, cut.outputs[0].type = cut.name, value.type
        cut.outputs[0].shape = _shape(value, axis)
        producer = value.producer()
        if producer is None:
            graph.insert_before(graph[0], cut)
        else:
            graph.insert_after(producer, cut)
        for (node, index), along in uses.items():
            if along == axis:
                node.replace_input_with(index, cut.outputs[0])


def _axes(node: ir.Node, axis: int) -> list[int | None] | None:
    """Along which axis of each input its output's ``axis`` runs (None: along none); None where it is not so simple."""
    out, first = node.outputs[0], node.inputs[0]
    if first is None or first.shape is None or out.shape is None:
        return None
    rest: list[int | None] = [None] * (len(node.inputs) - 1)
    rank, kind = len(out.shape), node.op_type
    if kind in ELEMENTWISE:
        return [_aligned(source, axis, rank) for source in node.inputs]
    if kind == "Transpose":
        return [list(node.attributes["perm"].as_ints())[axis]]
    along_last = kind in ("LayerNormalization", "Softmax") and node.attributes.get_int("axis", -1) in (-1, rank - 1)
    rows = kind == "MatMul" and axis == rank - 2 and _rank(first) == rank
    leading = kind == "Reshape" and first.shape[: axis + 1] == out.shape[: axis + 1] and _sizes(node, axis) is not None
    return [axis, *rest] if (along_last and axis != rank - 1) or rows or leading else None


def _aligned(source: ir.Value | None, axis: int, rank: int) -> int | None:
    """The axis of an input that is broadcast to ``rank`` axes; None where it has one place along it."""
    if source is None or source.shape is None:
        return None
    place = axis - rank + len(source.shape)
    return None if place < 0 or source.shape[place] == 1 else place


def _sizes(reshape: ir.Node, axis: int) -> list[int] | None:
    """The sizes a Reshape is to give: as before ahead of ``axis``, one along it; None where others are unknown."""
    after = list(reshape.outputs[0].shape or ())[axis + 1 :]
    known = [size for size in after if isinstance(size, int)]
    return None if len(known) < len(after) else [0] * axis + [1] + known


def _shape(value: ir.Value, axis: int) -> ir.Shape:
    return ir.Shape([1 if place == axis else size for place, size in enumerate(value.shape or ())])


def _constant(graph: ir.Graph, name: str, numbers: list[int]) -> ir.Value:
    if name not in graph.initializers:
        graph.register_initializer(constant(name, np.array(numbers, np.int64)))
    return graph.initializers[name]


def _rank(value: ir.Value) -> int:
    return -1 if value.shape is None else len(value.shape)
