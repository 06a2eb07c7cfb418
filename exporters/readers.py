"""Who reads a value of a graph."""

from __future__ import annotations

import onnx_ir as ir


def only_reader(value: ir.Value, operator: str) -> ir.Node | None:
    """The node that alone reads a value, if it is of this kind."""
    readers = [use.node for use in value.uses()]
    alone = len(readers) == 1 and not value.is_graph_output()
    return readers[0] if alone and readers[0].op_type == operator else None
