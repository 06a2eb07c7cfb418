"""How fast this machine multiplies matrices through ONNX Runtime: what `edgebert doctor` tells.

A product [512, 768] x [768, 3072], that of a bert-base feed-forward layer; two operations a multiply-add.
The graphs are packaged (benchmarks/gemm_graphs.py writes them), so that the base install can measure.
"""

from __future__ import annotations

import time
from importlib.resources import files
from typing import Any

import numpy as np

_SHAPE = (512, 768, 3072)
_SECONDS = 0.25
_ACTIVATIONS = {"fp32": np.float32, "int8": np.uint8}


def gemm_seconds(dtype: str, threads: int) -> list[float]:
    """Seconds of each product in ``fp32`` or ``int8`` that fits into 0.25 s, at least one; the first does not count."""
    session = _session(dtype, threads)
    feed = {"activation": np.ones(_SHAPE[:2], dtype=_ACTIVATIONS[dtype])}
    session.run(None, feed)
    found: list[float] = []
    until = time.perf_counter() + _SECONDS
    while not found or time.perf_counter() < until:
        start = time.perf_counter()
        session.run(None, feed)
        found.append(time.perf_counter() - start)
    return found


def gops(seconds: list[float]) -> float:
    """Billions of operations a second, by the fastest of some products."""
    return 2 * float(np.prod(_SHAPE)) / min(seconds) / 1e9


def _session(dtype: str, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    graph = files("edgebert").joinpath(f"data/gemm-{dtype}.onnx").read_bytes()
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
