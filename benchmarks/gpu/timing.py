"""Milliseconds by the host's and by the device's clock, memory, and the matrix peak that shares are taken of."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# Calls before any is counted: kernels are chosen, graphs captured, clocks raised. Of long ones fewer are enough.
_WARM_UP, _WARM_SECONDS = 10, 0.1
_MOST_CALLS = 200
# What one row may take, so that a table fits its time.
_SECONDS = 0.25


@dataclass(frozen=True)
class Timing:
    """Medians of single calls in ms; ``device`` is None without a GPU. ``calls`` were counted."""

    host: float
    device: float | None
    calls: int


def timed(call: Callable[[], Any], device: str) -> Timing:
    """Each call is waited for: latency, not throughput of a queue."""
    until = time.perf_counter() + _WARM_SECONDS
    for done in range(_WARM_UP):
        if done >= 3 and time.perf_counter() > until:
            break
        call()
        wait(device)
    host, clock = [], []
    until = time.perf_counter() + _SECONDS
    while len(host) < _MOST_CALLS and (time.perf_counter() < until or len(host) < 3):
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device == "cuda" else []
        start = time.perf_counter()
        for mark in marks[:1]:
            mark.record()
        call()
        for mark in marks[1:]:
            mark.record()
        wait(device)
        host.append((time.perf_counter() - start) * 1e3)
        if marks:
            clock.append(marks[0].elapsed_time(marks[1]))
    return Timing(float(np.median(host)), float(np.median(clock)) if clock else None, len(host))


def wait(device: str) -> None:
    """Until the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def used_bytes(device: str) -> int:
    """What everybody together holds on the GPU; 0 without one."""
    if device != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info()
    return int(total - free)


def matrix_peak(device: str) -> float:
    """FLOP/s of one large square product, the best of some: in fp16 on a GPU, in fp32 on a CPU."""
    size, kind = (8192, torch.float16) if device == "cuda" else (256, torch.float32)
    left, right = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    best = float("inf")
    for _ in range(20):
        wait(device)
        start = time.perf_counter()
        left @ right
        wait(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best
