"""What TensorRT's runtimes need of CUDA: memory, copies, a stream and a clock on the GPU, through cuda-bindings.

Why that package: docs/decisions/019-cuda-through-cuda-bindings.md.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from cuda.bindings import runtime as cuda

from edgebert.errors import EnvironmentMissing, OutOfMemory
from edgebert.runtimes.session import Array

_DRIVER = "needs an NVIDIA GPU with its driver; run edgebert doctor"


def require() -> None:
    """Raise EnvironmentMissing, with CUDA's own reason, where there is no GPU."""
    code, *found = cuda.cudaGetDeviceCount()
    if code != cuda.cudaError_t.cudaSuccess or not found[0]:
        raise EnvironmentMissing(f"no GPU ({_reason(code)})", "CUDA", _DRIVER)


def capability() -> str:
    """The compute capability of the GPU in use, such as ``8.9``."""
    kinds = cuda.cudaDeviceAttr
    numbers = [
        _checked(cuda.cudaDeviceGetAttribute(kind, _current()))
        for kind in (kinds.cudaDevAttrComputeCapabilityMajor, kinds.cudaDevAttrComputeCapabilityMinor)
    ]
    return ".".join(map(str, numbers))


def name() -> str:
    """What the GPU in use is called."""
    found: bytes = _checked(cuda.cudaGetDeviceProperties(_current())).name
    return found.decode("ascii", "replace").rstrip("\0")


def free_bytes() -> int:
    """Memory of the GPU that nobody uses."""
    code, free, _ = cuda.cudaMemGetInfo()
    _checked((code,))
    return int(free)


class Stream:
    """Work for the GPU in order, and two marks on its own clock."""

    def __init__(self) -> None:
        self.handle = int(_checked(cuda.cudaStreamCreate()))
        self._marks = [_checked(cuda.cudaEventCreate()) for _ in range(2)]

    def to_device(self, array: Array, buffer: Buffer) -> None:
        """Copy an array to the GPU; it must live until :meth:`wait`."""
        direction = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        _checked(cuda.cudaMemcpyAsync(buffer.address, array.ctypes.data, array.nbytes, direction, self.handle))

    def to_host(self, buffer: Buffer, array: Array) -> None:
        """Copy into an array, which holds its values after :meth:`wait`."""
        direction = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _checked(cuda.cudaMemcpyAsync(array.ctypes.data, buffer.address, array.nbytes, direction, self.handle))

    def mark(self, which: int) -> None:
        """Set mark 0 or 1 behind the work so far."""
        _checked(cuda.cudaEventRecord(self._marks[which], self.handle))

    def wait(self) -> None:
        """Until all is done."""
        _checked(cuda.cudaStreamSynchronize(self.handle))

    def milliseconds(self) -> float:
        """From mark 0 to mark 1, by the GPU's clock."""
        return float(_checked(cuda.cudaEventElapsedTime(*self._marks)))

    def close(self) -> None:
        """Give the stream and its marks back."""
        for mark in self._marks:
            _checked(cuda.cudaEventDestroy(mark))
        _checked(cuda.cudaStreamDestroy(self.handle))


class Meter:
    """One call at a time, and what all have taken by the GPU's clock."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._calls, self._milliseconds = 0, 0.0

    @contextmanager
    def call(self) -> Iterator[Callable[[float], None]]:
        """A caller's turn; what is given is to be told the milliseconds of each batch."""
        with self._turn:
            yield self._add
            self._calls += 1

    def facts(self) -> dict[str, Any]:
        """``device_calls``, and ``device_ms`` in all."""
        return {"device_calls": self._calls, "device_ms": round(self._milliseconds, 4)}

    def _add(self, milliseconds: float) -> None:
        self._milliseconds += milliseconds


class Buffer:
    """Memory on the GPU for ``count`` elements of a dtype."""

    def __init__(self, count: int, dtype: Any) -> None:
        self.bytes = max(1, count) * np.dtype(dtype).itemsize
        self.address = int(_checked(cuda.cudaMalloc(self.bytes)))

    def close(self) -> None:
        """Give the memory back."""
        _checked(cuda.cudaFree(self.address))


def _current() -> int:
    return int(_checked(cuda.cudaGetDevice()))


def _checked(answer: tuple[Any, ...]) -> Any:
    """What a call of CUDA gave; its error as ours."""
    code, *found = answer
    if code == cuda.cudaError_t.cudaErrorMemoryAllocation:
        raise OutOfMemory("out of GPU memory", "CUDA", "free GPU memory, or use smaller batches or fewer layers")
    if code != cuda.cudaError_t.cudaSuccess:
        raise EnvironmentMissing(f"CUDA failed ({_reason(code)})", "the GPU", _DRIVER)
    return found[0] if found else None


def _reason(code: Any) -> str:
    text = cuda.cudaGetErrorString(code)[1]
    return f"{text.decode('ascii', 'replace')}, error {int(code)}"
