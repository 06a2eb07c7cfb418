"""Asks a Triton server that serves an `edgebert package --format triton` repository, over HTTP and JSON.

    python examples/triton_client.py http://localhost:8000 films "a fine film" "a dull one"

The protocol: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Sequence
from typing import Any


def body(texts: Sequence[str]) -> dict[str, Any]:
    """A request for single texts."""
    return {"inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [len(texts), 1], "data": list(texts)}]}


def rows(answer: dict[str, Any]) -> list[list[float]]:
    """One row of logits, or one vector, for each text."""
    (output,) = answer["outputs"]
    width = output["shape"][-1]
    return [output["data"][start : start + width] for start in range(0, len(output["data"]), width)]


def main() -> None:
    """Print a line of numbers for each text."""
    server, model, *texts = sys.argv[1:]
    request = urllib.request.Request(
        f"{server}/v2/models/{model}/infer", json.dumps(body(texts)).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        for text, row in zip(texts, rows(json.load(response)), strict=True):
            print(text, *(f"{value:.4f}" for value in row), sep="\t")


if __name__ == "__main__":
    main()
