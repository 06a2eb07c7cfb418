"""GELU in the order of products that engines know.

PyTorch's exporter writes ``x * (0.5 * (1 + erf(x / √2)))``. ONNX Runtime makes one operator of
``(x * (1 + erf(x / √2))) * 0.5`` and runs the other form as five, each through memory. A factor of one half is exact,
so no bit changes but of subnormal numbers. What it gains: benchmarks/rewrites.py.
"""

from __future__ import annotations

import onnx_ir as ir

from edgebert.exporters.readers import only_reader


def order_gelu(graph: ir.Graph) -> int:
    """Rewrite every GELU of a graph, in place; returns how many there were."""
    found = [halving for node in graph if node.op_type == "Erf" and (halving := _halving(node)) is not None]
    for half, scaled, x, one_plus_erf, product in found:
        scaled.replace_input_with(0, x)
        scaled.replace_input_with(1, one_plus_erf)
        product.replace_input_with(0, scaled.outputs[0])
        product.replace_input_with(1, half)
    return len(found)


def _halving(erf: ir.Node) -> tuple[ir.Value, ir.Node, ir.Value, ir.Value, ir.Node] | None:
    """The half, what multiplies by it, x, 1 + erf, and what multiplies by x; None where the form is another."""
    inner = erf.inputs[0].producer() if erf.inputs[0] is not None else None
    add = only_reader(erf.outputs[0], "Add")
    scaled = None if add is None else only_reader(add.outputs[0], "Mul")
    product = None if scaled is None else only_reader(scaled.outputs[0], "Mul")
    if inner is None or add is None or scaled is None or product is None:
        return None
    x, half = inner.inputs[0], _other(scaled, add.outputs[0])
    is_half = half is not None and half.const_value is not None and half.const_value.numpy().tolist() == 0.5
    if x is None or half is None or not is_half or _other(product, scaled.outputs[0]) is not x:
        return None
    return half, scaled, x, add.outputs[0], product


def _other(node: ir.Node, known: ir.Value) -> ir.Value | None:
    """The other of two inputs."""
    first, second = node.inputs
    return second if first is known else first
