"""Where a call's time goes: the GPU's kernels by name, from CUPTI through PyTorch's profiler, whoever launched them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from gpu.timing import wait

_CALLS = 5
# Kernels of a table, and letters of a name: templates have hundreds.
_ROWS, _LETTERS = 12, 90


def kernels(call: Callable[[], Any]) -> list[dict[str, Any]]:
    """The longest kernels of a call, longest first: their launches and microseconds a call, and their share of all."""
    for _ in range(3):
        call()
    wait("cuda")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        for _ in range(_CALLS):
            call()
        wait("cuda")
    took: dict[str, list[float]] = defaultdict(list)
    for event in seen.events():
        if event.device_type == torch.autograd.DeviceType.CUDA and event.time_range.elapsed_us() > 0:
            took[event.name].append(event.time_range.elapsed_us())
    whole = sum(map(sum, took.values()))
    longest = sorted(took.items(), key=lambda item: -sum(item[1]))
    rows = [("all kernels", [each for times in took.values() for each in times]), *longest[:_ROWS]]
    return [
        {
            "kernel": name.replace("|", "/")[:_LETTERS], "launches": round(len(times) / _CALLS, 1),
            "microseconds": round(sum(times) / _CALLS, 1), "share": f"{sum(times) / whole:.0%}",
        }
        for name, times in rows
    ]  # fmt: skip
