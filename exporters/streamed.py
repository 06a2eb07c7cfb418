"""Writes a graph into one file, one weight after the other: in memory is never more than the largest of them.

onnx itself copies all weights into a message and that message into a string before it writes. The wire format
is protobuf's (https://protobuf.dev/programming-guides/encoding/): a message is its fields in any order, each
of them a key and, for bytes, their length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

# Field numbers of onnx.proto, in messages that hold bytes or other messages.
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7, 5, 9
_BYTES = 2


@dataclass(frozen=True)
class _Weight:
    """A tensor's fields but its data, and the data."""

    head: bytes
    data: ir.TensorProtocol

    @property
    def size(self) -> int:
        return len(self.head) + self.data.nbytes


def save_streamed(model: ir.Model, path: Path) -> None:
    """Write ``model`` with its weights inside. The order of weights is that of the graph's initializers."""
    values = list(model.graph.initializers.values())
    weights = [_weight(str(value.name), value.const_value) for value in values if value.const_value is not None]
    with _without(model.graph, values):
        rest = ir.to_proto(model)
    graph = rest.graph.SerializeToString()
    rest.ClearField("graph")
    headed = [(_prefix(_GRAPH_INITIALIZER, weight.size) + weight.head, weight.data) for weight in weights]
    total = len(graph) + sum(len(head) + data.nbytes for head, data in headed)
    with open(path, "wb") as file:
        file.write(rest.SerializeToString() + _prefix(_MODEL_GRAPH, total) + graph)
        for head, data in headed:
            file.write(head)
            file.write(data.tobytes())


def _weight(name: str, tensor: ir.TensorProtocol) -> _Weight:
    fields = onnx.TensorProto(dims=tensor.shape.numpy(), data_type=tensor.dtype.value, name=name)
    return _Weight(fields.SerializeToString() + _prefix(_TENSOR_RAW_DATA, tensor.nbytes), tensor)


@contextmanager
def _without(graph: ir.Graph, values: Sequence[ir.Value]) -> Iterator[None]:
    """The graph with these initializers taken out for a moment."""
    graph.initializers.clear()
    try:
        yield
    finally:
        for value in values:
            graph.register_initializer(value)


def _prefix(field: int, length: int) -> bytes:
    """The key of a field of bytes, and their length."""
    return _varint(field << 3 | _BYTES) + _varint(length)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])
