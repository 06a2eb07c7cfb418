"""The wire format of protobuf, as far as ONNX files use it. Nothing is copied, nothing is believed.

A message is read against a table of the fields it may have; whatever else it holds is refused, since
what we skip the engine would still read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# How a field may appear: once or repeated; as a varint, bytes, or four or eight bytes at once. Repeated numbers
# may be packed.
ONE_INT, ONE_BYTES, ONE_FIXED32 = "i", "b", "f"
INTS, BYTES, FIXED32, FIXED64 = "I", "B", "F", "D"

Value = int | memoryview
Fields = dict[int, list[Value]]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIRE = {
    ONE_INT: (_VARINT,), ONE_BYTES: (_BYTES,), ONE_FIXED32: (_FIXED32,),
    INTS: (_VARINT, _BYTES), BYTES: (_BYTES,), FIXED32: (_FIXED32, _BYTES), FIXED64: (_FIXED64, _BYTES),
}  # fmt: skip
_ONCE = (ONE_INT, ONE_BYTES, ONE_FIXED32)


class Malformed(ValueError):
    """The bytes are no such message; the text says why."""


@dataclass(frozen=True)
class Shape:
    """What a kind of message is called and may hold: field number to one of the forms above."""

    name: str
    fields: Mapping[int, str]
    # Names of fields that are refused on purpose, for the error.
    refused: Mapping[int, str] | None = None


class Reader:
    """Reads messages of one file, of which ``budget`` fields in all: tiny fields would cost more than the file."""

    def __init__(self, budget: int) -> None:
        self._budget = budget

    def read(self, message: memoryview, shape: Shape) -> Fields:
        """The fields of one message by number, in order; bytes as views. Raises Malformed."""
        found: Fields = {}
        at, end = 0, len(message)
        while at < end:
            self._budget -= 1
            if self._budget < 0:
                raise Malformed("too many fields")
            key, at = varint(message, at)
            number, wire = key >> 3, key & 7
            form = shape.fields.get(number)
            if form is None or wire not in _WIRE[form]:
                what = (shape.refused or {}).get(number, f"field {number} of type {wire}")
                raise Malformed(f"{shape.name} holds {what}")
            if form in _ONCE and number in found:
                raise Malformed(f"{shape.name} holds field {number} twice")
            value, at = _value(message, at, wire)
            found.setdefault(number, []).append(value)
        return found


def _value(message: memoryview, at: int, wire: int) -> tuple[Value, int]:
    if wire == _VARINT:
        return varint(message, at)
    length = 4 if wire == _FIXED32 else 8
    if wire == _BYTES:
        length, at = varint(message, at)
    if length > len(message) - at:
        raise Malformed(f"{length} bytes declared, {len(message) - at} there")
    return message[at : at + length], at + length


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """An unsigned number of up to 64 bits and where it ends."""
    result = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise Malformed("cut within a number")
        byte = message[at]
        at += 1
        result |= (byte & 127) << shift
        if byte < 128:
            if result >= 1 << 64:
                break
            return result, at
    raise Malformed("a number of more than 64 bits")


def signed(value: int) -> int:
    """A varint as the int64 it stands for."""
    return value - (1 << 64) if value >= 1 << 63 else value


def integers(values: list[Value], most: int) -> list[int]:
    """The numbers of a repeated field, packed or not, at most that many. Raises Malformed."""
    result: list[int] = []
    for value in values:
        if isinstance(value, int):
            result.append(signed(value))
            continue
        at = 0
        while at < len(value) and len(result) <= most:
            number, at = varint(value, at)
            result.append(signed(number))
    if len(result) > most:
        raise Malformed(f"more than {most} numbers")
    return result


def text(values: list[Value] | None) -> str:
    """A string field, empty where it is absent. Raises Malformed."""
    if not values:
        return ""
    try:
        return bytes(values[0]).decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("text that is not UTF-8") from None
