"""What the machine can do in the same rounds: matrix products at their fastest, and the cost of sharing small work.

Runs in the project's environment. The product is that of a bert-base feed-forward layer over 512 tokens, and a type's
peak is the faster of ONNX Runtime's kernels and PyTorch's. Neither has all: ONNX Runtime has no bf16.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from worker import Settings, serve

from edgebert.judging.speed import Sharing, gemm_seconds, gops

ROWS, INNER, COLUMNS = 512, 768, 3072
SECONDS = 0.25


class Machine:
    """The processors that the settings' ``threads`` may use."""

    def __init__(self, settings: Settings) -> None:
        self._threads: int = settings["threads"]

    def prepare(self) -> None:
        """Nothing: the graphs are packaged."""

    def open(self) -> dict[str, Any]:
        """Set the threads; of one there is nothing to share."""
        torch.set_num_threads(self._threads)
        self._sharing = Sharing(self._threads) if self._threads > 1 else None
        return {}

    def round(self) -> dict[str, Any]:
        """Billions of operations a second of each type, and the cost of sharing."""
        peaks = {"fp32": self._ours("fp32"), "bf16": 0.0, "int8": self._ours("int8")}
        for name, seconds in self._pytorch().items():
            peaks[name] = max(peaks[name], gops(seconds))
        return {"gops": peaks, "sharing": self._sharing.cost() if self._sharing else None}

    def _ours(self, dtype: str) -> float:
        return gops(gemm_seconds(dtype, self._threads))

    @staticmethod
    def _pytorch() -> dict[str, list[float]]:
        found = {}
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            left, right = torch.ones(ROWS, INNER, dtype=dtype), torch.ones(COLUMNS, INNER, dtype=dtype)
            found[name] = _timed(lambda left=left, right=right: torch.nn.functional.linear(left, right))
        left, right = torch.ones(ROWS, INNER, dtype=torch.int8), torch.ones(INNER, COLUMNS, dtype=torch.int8)
        found["int8"] = _timed(lambda: torch._int_mm(left, right))
        return found


def _timed(product: Callable[[], Any]) -> list[float]:
    """Seconds of each product that fits into 0.25 s; the first does not count."""
    product()
    found = []
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        start = time.perf_counter()
        product()
        found.append(time.perf_counter() - start)
    return found


if __name__ == "__main__":
    serve(Machine)
