"""Reads an ONNX graph the careful way before an engine does: operators, tensors and sizes, no framework.

The graph that edgebert writes is a flat list of standard operators over plain tensors. Whatever else a
file holds (code of other operator sets, functions, subgraphs, data that lies elsewhere, lengths that
nothing stands behind) is refused. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from edgebert.errors import InputError
from edgebert.protobuf import (
    BYTES,
    FIXED32,
    FIXED64,
    INTS,
    ONE_BYTES,
    ONE_FIXED32,
    ONE_INT,
    Fields,
    Malformed,
    Reader,
    Shape,
    Value,
    integers,
    signed,
    text,
)

GRAPH = "model.onnx"
EXTERNAL = f"{GRAPH}_data"

_DOMAINS = ("", "ai.onnx", "com.microsoft")
# A BERT of 24 layers has some 30 000 fields.
_MOST_FIELDS = 100_000
_MOST_DIMENSIONS = 8

_ENTRY = Shape("an entry", {1: ONE_BYTES, 2: ONE_BYTES})
_MODEL = Shape(
    "the model",
    {1: ONE_INT, 2: ONE_BYTES, 3: ONE_BYTES, 4: ONE_BYTES, 5: ONE_INT, 6: ONE_BYTES, 7: ONE_BYTES, 8: BYTES, 14: BYTES},
    {20: "training information", 25: "local functions", 26: "a device configuration"},
)
_OPSET = Shape("an operator set", {1: ONE_BYTES, 2: ONE_INT})
_GRAPH = Shape(
    "the graph",
    {1: BYTES, 2: ONE_BYTES, 5: BYTES, 10: ONE_BYTES, 11: BYTES, 12: BYTES, 13: BYTES, 14: BYTES, 16: BYTES},
    {15: "sparse tensors"},
)
_NODE = Shape(
    "a node",
    {1: BYTES, 2: BYTES, 3: ONE_BYTES, 4: ONE_BYTES, 5: BYTES, 6: ONE_BYTES, 7: ONE_BYTES, 8: ONE_BYTES, 9: BYTES},
    {10: "a device configuration"},
)
_ATTRIBUTE = Shape(
    "an attribute",
    {
        1: ONE_BYTES, 2: ONE_FIXED32, 3: ONE_INT, 4: ONE_BYTES, 5: ONE_BYTES, 7: FIXED32, 8: INTS, 9: BYTES,
        10: BYTES, 13: ONE_BYTES, 20: ONE_INT,
    },
    {6: "a subgraph", 11: "subgraphs", 21: "a function's attribute", 22: "a sparse tensor", 23: "sparse tensors"},
)  # fmt: skip
_TENSOR = Shape(
    "a tensor",
    {
        1: INTS, 2: ONE_INT, 4: FIXED32, 5: INTS, 7: INTS, 8: ONE_BYTES, 9: ONE_BYTES, 10: FIXED64, 11: INTS,
        12: ONE_BYTES, 13: BYTES, 14: ONE_INT, 16: BYTES,
    },
    {3: "a segment", 6: "strings"},
)  # fmt: skip
_VALUE = Shape("a value", {1: ONE_BYTES, 2: ONE_BYTES, 3: ONE_BYTES, 4: BYTES})
_TYPE = Shape("a type", {1: ONE_BYTES, 6: ONE_BYTES})
_TENSOR_TYPE = Shape("a tensor type", {1: ONE_INT, 2: ONE_BYTES})
_SHAPE = Shape("a shape", {1: BYTES})
_DIMENSION = Shape("a dimension", {1: ONE_INT, 2: ONE_BYTES, 3: ONE_BYTES})

# TensorProto.DataType to bits an element; strings and complex numbers have no place in a BERT.
_BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4,
}  # fmt: skip
_RAW, _EXTERNAL_DATA, _LOCATION = 9, 13, 14
# The fields that hold numbers one by one, and the bytes each takes (0: a varint).
_TYPED = {4: 4, 5: 0, 7: 0, 10: 8, 11: 0}


@dataclass(frozen=True)
class Graph:
    """What an artifact's manifest can be compared with: names and sizes; None for a symbolic one."""

    inputs: Mapping[str, tuple[int | None, ...]]
    outputs: Mapping[str, tuple[int | None, ...]]
    tensors: Mapping[str, tuple[int, ...]]


def inspect(model: bytes, where: str, beside: int | None = None) -> Graph:
    """Read the graph of a ``model.onnx``; ``beside`` is the size of its listed ``model.onnx_data``, if any.

    Raises InputError for whatever edgebert does not write. Allocates next to nothing, whatever is declared.
    """
    try:
        return _Guard(beside).model(memoryview(model))
    except Malformed as error:
        raise InputError(f"the graph is refused ({error})", where, "export it again, and do not trust it") from None


@dataclass
class _Guard:
    beside: int | None
    reader: Reader = field(default_factory=lambda: Reader(_MOST_FIELDS))

    def model(self, message: memoryview) -> Graph:
        fields = self.reader.read(message, _MODEL)
        for view in _views(fields, 8):
            _check_domain(text(self.reader.read(view, _OPSET).get(1)), "operator set")
        graphs = _views(fields, 7)
        if not graphs:
            raise Malformed("there is no graph in it")
        return self.graph(graphs[0])

    def graph(self, message: memoryview) -> Graph:
        fields = self.reader.read(message, _GRAPH)
        tensors = dict(self.tensor(view, external=True) for view in _views(fields, 5))
        if len(tensors) != len(_views(fields, 5)):
            raise Malformed("two tensors of one name")
        for view in _views(fields, 1):
            self.node(view)
        inputs, outputs = (dict(map(self.value, _views(fields, number))) for number in (11, 12))
        if len(inputs) != len(_views(fields, 11)):
            raise Malformed("two inputs of one name")
        return Graph(inputs, outputs, tensors)

    def node(self, message: memoryview) -> None:
        fields = self.reader.read(message, _NODE)
        operator = text(fields.get(4))
        _check_domain(text(fields.get(7)), f"operator {operator}")
        if operator == "EPContext":
            raise Malformed("an EPContext node, which carries native code")
        for view in _views(fields, 5):
            attribute = self.reader.read(view, _ATTRIBUTE)
            for tensor in _views(attribute, 5) + _views(attribute, 10):
                self.tensor(tensor, external=False)

    def tensor(self, message: memoryview, *, external: bool) -> tuple[str, tuple[int, ...]]:
        """Name and dimensions of a tensor whose payload is exactly as long as they say."""
        fields = self.reader.read(message, _TENSOR)
        name = text(fields.get(8))
        shape = tuple(integers(fields.get(1, []), _MOST_DIMENSIONS))
        bits = _BITS.get(_number(fields, 2))
        if bits is None:
            raise Malformed(f"tensor {name} has elements of type {_number(fields, 2)}")
        if min(shape, default=0) < 0:
            raise Malformed(f"tensor {name} has a negative dimension")
        count = math.prod(shape)
        length = (count * bits + 7) // 8
        if _number(fields, _LOCATION) == 1 and external:
            self.external(name, fields, length)
        elif _number(fields, _LOCATION) or _EXTERNAL_DATA in fields:
            raise Malformed(f"tensor {name} has its data where none may be")
        else:
            _check_payload(name, fields, count, length)
        return name, shape

    def external(self, name: str, fields: Fields, length: int) -> None:
        entries = [self.reader.read(view, _ENTRY) for view in _views(fields, _EXTERNAL_DATA)]
        found = {text(entry.get(1)): text(entry.get(2)) for entry in entries}
        if len(found) != len(entries) or fields.keys() & {_RAW, *_TYPED}:
            raise Malformed(f"tensor {name} has its data twice")
        if found.pop("location", None) != EXTERNAL or self.beside is None:
            raise Malformed(f"tensor {name} has its data outside of {EXTERNAL}")
        offset = _decimal(name, found.pop("offset", "0"))
        declared = _decimal(name, found.pop("length", str(length)))
        found.pop("checksum", None)
        if found:
            raise Malformed(f"tensor {name} has unknown external data {min(found)!r}")
        if declared != length or offset + length > self.beside:
            what = f"{declared} bytes at {offset} where it needs {length} of {self.beside}"
            raise Malformed(f"tensor {name} has external data of {what}")

    def value(self, message: memoryview) -> tuple[str, tuple[int | None, ...]]:
        """Name and shape of one of the graph's inputs or outputs."""
        fields = self.reader.read(message, _VALUE)
        shape: tuple[int | None, ...] = ()
        for kind in _views(fields, 2):
            for tensor in _views(self.reader.read(kind, _TYPE), 1):
                for sizes in _views(self.reader.read(tensor, _TENSOR_TYPE), 2):
                    shape = tuple(map(self.dimension, _views(self.reader.read(sizes, _SHAPE), 1)))
        return text(fields.get(1)), shape

    def dimension(self, message: memoryview) -> int | None:
        fields = self.reader.read(message, _DIMENSION)
        return signed(_number(fields, 1)) if 1 in fields else None


def _check_domain(domain: str, what: str) -> None:
    if domain not in _DOMAINS:
        raise Malformed(f"{what} of the domain {domain!r}; known are ai.onnx and com.microsoft")


def _check_payload(name: str, fields: Fields, count: int, length: int) -> None:
    kinds = sorted(fields.keys() & {_RAW, *_TYPED})
    if len(kinds) > 1:
        raise Malformed(f"tensor {name} has its data twice")
    if not kinds:
        there, needed = 0, count
    elif kinds == [_RAW]:
        there, needed = len(_views(fields, _RAW)[0]), length
    else:
        there, needed = sum(_elements(value, _TYPED[kinds[0]]) for value in fields[kinds[0]]), count
    if there != needed:
        raise Malformed(f"tensor {name} declares {needed} and holds {there}")


def _elements(value: Value, width: int) -> int:
    """How many numbers a piece of a repeated field holds: ``width`` bytes each, or (0) varints."""
    if isinstance(value, int):
        return 1
    if width:
        # Not packed, the piece is one number of just that width.
        return len(value) // width
    return int(np.count_nonzero(np.frombuffer(value, np.uint8) < 128))


def _views(fields: Fields, number: int) -> list[memoryview]:
    return [value for value in fields.get(number, []) if isinstance(value, memoryview)]


def _number(fields: Fields, number: int) -> int:
    value = fields.get(number, [0])[0]
    return value if isinstance(value, int) else 0


def _decimal(name: str, digits: str) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise Malformed(f"tensor {name} has external data at {digits[:20]!r}")
    return int(digits)
