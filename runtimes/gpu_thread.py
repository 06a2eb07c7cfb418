"""The one thread of a process that asks ONNX Runtime's GPU providers for anything.

The CUDA provider keeps CUDA graphs, and handles of cuBLAS and cuDNN, for each thread that calls, as long as the session
lives: a server with a thread for each request would capture each shape again in each of them. And while it captures,
what any other thread asks of CUDA may spoil it. Passing a call on takes some 30 us.
Source: ``PerThreadContext`` and ``cudaStreamCaptureModeGlobal`` in onnxruntime/core/providers/cuda.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def on_gpu_thread(call: Callable[[], T]) -> T:
    """What ``call`` gives or raises there; other threads wait for their turn."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(1, thread_name_prefix="edgebert-gpu")
        pool = _pool
    return pool.submit(call).result()


def _after_fork() -> None:
    """Forget, in the child, the parent's thread, which stayed there."""
    global _lock, _pool
    _lock, _pool = threading.Lock(), None


os.register_at_fork(after_in_child=_after_fork)
