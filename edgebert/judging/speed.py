"""How fast this machine multiplies matrices through ONNX Runtime, and what it costs to share that among threads.

For `edgebert doctor` a product [512, 768] x [768, 3072], that of a bert-base feed-forward layer; two operations a
multiply-add. For the cost of sharing a chain of 64 products [20, 160] x [160, 160]: threads meet after each, as
in a small int8 model. The graphs are packaged (benchmarks/gemm_graphs.py writes them), so that the base install
can measure.
"""

from __future__ import annotations

import time
from importlib.resources import files
from typing import Any

import numpy as np

_SHAPE = (512, 768, 3072)
_SECONDS = 0.25
_CHAIN_SHAPE = (20, 160)
# For each of the two numbers of threads; twice as long is spent on waking and spreading them.
_CHAIN_SECONDS = 0.01
_ACTIVATIONS = {"fp32": np.float32, "int8": np.uint8}


def gemm_seconds(dtype: str, threads: int) -> list[float]:
    """Seconds of each product in ``fp32`` or ``int8`` that fits into 0.25 s, at least one; the first does not count."""
    session = _session(f"gemm-{dtype}", threads)
    activation = np.ones(_SHAPE[:2], dtype=_ACTIVATIONS[dtype])
    _timed(session, activation, 0.0)
    return _timed(session, activation, _SECONDS)


def gops(seconds: list[float]) -> float:
    """Billions of operations a second, by the fastest of some products."""
    return 2 * float(np.prod(_SHAPE)) / min(seconds) / 1e9


class Sharing:
    """What it costs to share small work among ``threads`` threads, at any time one asks."""

    def __init__(self, threads: int) -> None:
        self._alone, self._shared = _session("gemm-chain", 1), _session("gemm-chain", threads)

    def cost(self) -> float:
        """How many times the chain's duration on one thread: below 1 sharing gains, above 1 it loses.

        On two cores of one cache 0.7 was seen, on two of different caches, which a host may give a virtual
        machine for a while, 1.35.
        """
        alone, shared = (self._median(session) for session in (self._alone, self._shared))
        return shared / alone

    @staticmethod
    def _median(session: Any) -> float:
        activation = np.ones(_CHAIN_SHAPE, dtype=np.float32)
        _timed(session, activation, 2 * _CHAIN_SECONDS)
        return float(np.median(_timed(session, activation, _CHAIN_SECONDS)))


def _timed(session: Any, activation: Any, seconds: float) -> list[float]:
    """Seconds of each run that fits into ``seconds``, at least one."""
    found: list[float] = []
    until = time.perf_counter() + seconds
    while not found or time.perf_counter() < until:
        start = time.perf_counter()
        session.run(None, {"activation": activation})
        found.append(time.perf_counter() - start)
    return found


def _session(name: str, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    graph = files("edgebert").joinpath(f"data/{name}.onnx").read_bytes()
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
