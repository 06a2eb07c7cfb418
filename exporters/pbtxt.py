"""Protobuf's text format, as far as configuration files need it.

https://protobuf.dev/reference/protobuf/textformat-spec/
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


class Word(str):
    """A name that stands without quotes: a value of an enumeration."""


def text_format(message: Mapping[str, Any]) -> str:
    """A message: a list is a repeated field, a mapping a message; for maps see :func:`entries`."""
    return "".join(f"{line}\n" for line in _lines(message))


def entries(pairs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A map field, which is a list of messages with a key and a value."""
    return [{"key": key, "value": value} for key, value in pairs.items()]


def _lines(message: Mapping[str, Any]) -> Iterator[str]:
    for name, value in message.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Mapping):
                yield f"{name} {{"
                yield from (f"  {line}" for line in _lines(each))
                yield "}"
            else:
                yield f"{name}: {_scalar(each)}"


def _scalar(value: Any) -> str:
    if isinstance(value, Word):
        return value
    # Strings, numbers, true and false are written as in JSON.
    return json.dumps(value, ensure_ascii=False)
