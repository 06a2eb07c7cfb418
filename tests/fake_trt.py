"""A TensorRT and a CUDA without a GPU, for tests of what calls them in which order.

An "engine" is the ONNX graph itself, which ONNX Runtime computes; "GPU memory" is the host's. As on a GPU, nothing that
is asked of a stream happens before it is waited for. Only what all TensorRTs have in common is here.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import pickle
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
import pytest
from cuda.bindings import runtime as real

from edgebert.runtimes import device
from edgebert.runtimes.widened import widened

OK = real.cudaError_t.cudaSuccess
_STREAM = 7


@dataclass
class Machine:
    """One GPU, and everything that was asked of it, in order. ``refused`` are engines that the driver does not take."""

    capability: str = "8.9"
    version: str = "10.16.1"
    calls: list[str] = field(default_factory=list)
    built: int = 0
    timings: list[bytes] = field(default_factory=list)
    waiting: list[Callable[[], object]] = field(default_factory=list)
    memory: dict[int, Any] = field(default_factory=dict)
    refused: set[bytes] = field(default_factory=set)

    def later(self, name: str, what: Callable[[], object]) -> None:
        self.calls.append(name)
        self.waiting.append(what)

    def array(self, address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """What lies at an address of the GPU's memory."""
        buffer = self.memory[address]
        count = int(np.prod(shape))
        assert count * np.dtype(dtype).itemsize <= len(buffer), "beyond what was allocated"
        return np.frombuffer(buffer, dtype, count).reshape(shape)


def _cuda(machine: Machine) -> Any:
    def malloc(count: int) -> tuple[Any, int]:
        buffer = ctypes.create_string_buffer(count)
        address = ctypes.addressof(buffer)
        machine.memory[address] = buffer
        return OK, address

    def copy(to: int, of: int, count: int, kind: Any, stream: int) -> tuple[Any]:
        assert stream == _STREAM
        machine.later(kind.name.removeprefix("cudaMemcpy"), lambda: ctypes.memmove(to, of, count))
        return (OK,)

    def wait(stream: int) -> tuple[Any]:
        machine.calls.append("wait")
        while machine.waiting:
            machine.waiting.pop(0)()
        return (OK,)

    def attribute(kind: Any, device: int) -> tuple[Any, int]:
        major, minor = machine.capability.split(".")
        return OK, int(major if kind.name.endswith("Major") else minor)

    def record(mark: str, stream: int) -> tuple[Any]:
        machine.later("mark", lambda: None)
        return (OK,)

    return types.SimpleNamespace(
        cudaError_t=real.cudaError_t, cudaMemcpyKind=real.cudaMemcpyKind, cudaDeviceAttr=real.cudaDeviceAttr,
        cudaGetErrorString=real.cudaGetErrorString, cudaGetDeviceCount=lambda: (OK, 1), cudaGetDevice=lambda: (OK, 0),
        cudaDeviceGetAttribute=attribute,
        cudaGetDeviceProperties=lambda number: (OK, types.SimpleNamespace(name=b"A GPU\0\0")),
        cudaMemGetInfo=lambda: (OK, 10**9 - sum(map(len, machine.memory.values())), 10**9),
        cudaMalloc=malloc, cudaFree=lambda address: (OK, machine.memory.pop(address))[:1], cudaMemcpyAsync=copy,
        cudaStreamCreate=lambda: (OK, _STREAM), cudaStreamSynchronize=wait, cudaStreamDestroy=lambda stream: (OK,),
        cudaEventCreate=lambda: (OK, "mark"), cudaEventRecord=record, cudaEventDestroy=lambda mark: (OK,),
        cudaEventElapsedTime=lambda first, last: (OK, 0.25),
    )  # fmt: skip


class _Network:
    def __init__(self) -> None:
        self.model, self.inputs = b"", list[Any]()

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_input(self, place: int) -> Any:
        return self.inputs[place]


class _Parser:
    def __init__(self, network: _Network, log: Any) -> None:
        self._network, self._errors = network, list[str]()

    def parse(self, model: bytes) -> bool:
        if b"DynamicQuantizeLinear" in model:
            self._errors.append("DynamicQuantizeLinear")
            return False
        self._network.model = model
        self._network.inputs = list(_session(model).get_inputs())
        return True

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, place: int) -> Any:
        found = self._errors[place]
        return types.SimpleNamespace(node_operator=lambda: found, node_name=lambda: "a node", desc=lambda: "false")


def _session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(widened(model), options, providers=["CPUExecutionProvider"])


class _Context:
    def __init__(self, machine: Machine, engine: _Engine) -> None:
        self._machine, self._engine = machine, engine
        self._shapes, self._places = dict[str, tuple[int, ...]](), dict[str, int]()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.profile[name]
        fits = all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))
        self._shapes |= {name: shape} if fits else {}
        return fits

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch, sequence = next(iter(self._shapes.values()))
        sizes = {"batch": batch, "sequence": sequence}
        symbols = self._engine.tensors[name].shape
        return self._shapes.get(name) or tuple(sizes.get(size, size) for size in symbols)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._places[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == _STREAM
        shapes = {name: self.get_tensor_shape(name) for name in self._engine.tensors}
        self._machine.later("execute", lambda: self._execute(shapes))
        return True

    def _execute(self, shapes: dict[str, tuple[int, ...]]) -> None:
        engine = self._engine
        feed = {name: self._machine.array(self._places[name], shapes[name], np.int64) for name in engine.inputs}
        for name, found in zip(engine.outputs, engine.session.run(engine.outputs, feed), strict=True):
            self._machine.array(self._places[name], shapes[name], found.dtype)[...] = found


class _Engine:
    def __init__(self, machine: Machine, document: dict[str, Any]) -> None:
        self._machine, self.profile = machine, document["profile"]
        self.session = _session(document["model"])
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.outputs = [value.name for value in self.session.get_outputs()]
        self.tensors = {value.name: value for value in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, place: int) -> str:
        names: list[str] = list(self.tensors)
        return names[place]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name in self.inputs else "output"

    def get_tensor_dtype(self, name: str) -> str:
        kind: str = self.tensors[name].type
        return {"tensor(int64)": "int64", "tensor(float)": "float32"}[kind]

    def create_execution_context(self) -> _Context:
        return _Context(self._machine, self)


def _tensorrt(machine: Machine) -> types.ModuleType:
    class Config:
        progress_monitor: Any = None

        def __init__(self) -> None:
            self.profile: dict[str, Any] = {}
            self.cache = b""

        def clear_flag(self, flag: Any) -> None:
            assert flag == "TF32"

        def create_timing_cache(self, content: bytes) -> bytes:
            return content

        def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
            self.cache = cache
            return True

        def get_timing_cache(self) -> Any:
            return types.SimpleNamespace(serialize=lambda: self.cache + b"+")

        def add_optimization_profile(self, profile: Any) -> int:
            self.profile = profile.shapes
            return 0

    class Shapes:
        def __init__(self) -> None:
            self.shapes: dict[str, Any] = {}

        def set_shape(self, name: str, *sizes: tuple[int, ...]) -> None:
            self.shapes[name] = sizes

    class Builder:
        def __init__(self, log: Any) -> None: ...

        def create_network(self, flags: int) -> _Network:
            assert flags == 1 << 1, "strongly typed, and nothing else"
            return _Network()

        create_builder_config = staticmethod(Config)
        create_optimization_profile = staticmethod(Shapes)

        def build_serialized_network(self, network: _Network, config: Config) -> bytes | None:
            machine.built += 1
            machine.timings.append(config.cache)
            config.progress_monitor.phase_start("Building", None, 2)
            config.progress_monitor.phase_start("a part", "Building", 5)
            assert config.progress_monitor.step_complete("Building", 0)
            config.progress_monitor.phase_finish("Building")
            document = {
                "model": network.model, "profile": config.profile,
                "for": (machine.capability, machine.version),
            }  # fmt: skip
            return pickle.dumps(document)

    class Runtime:
        def __init__(self, log: Any) -> None:
            self._log = log

        def deserialize_cuda_engine(self, plan: bytes) -> _Engine | None:
            try:
                document = pickle.loads(plan)
            except pickle.UnpicklingError:
                self._log.log(1, "Serialization assertion failed: magic tag does not match")
                return None
            if plan in machine.refused or document["for"] != (machine.capability, machine.version):
                self._log.log(1, "the engine plan file is not compatible")
                return None
            return _Engine(machine, document)

    class ILogger:
        ERROR = 1

        def __init__(self) -> None: ...

    class IProgressMonitor:
        def __init__(self) -> None: ...

    module = types.ModuleType("tensorrt")
    module.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
    vars(module).update(
        __version__=machine.version, ILogger=ILogger, IProgressMonitor=IProgressMonitor, Builder=Builder,
        Runtime=Runtime, OnnxParser=_Parser, nptype=np.dtype,
        NetworkDefinitionCreationFlag=types.SimpleNamespace(STRONGLY_TYPED=1),
        BuilderFlag=types.SimpleNamespace(TF32="TF32"), TensorIOMode=types.SimpleNamespace(INPUT="input"),
    )  # fmt: skip
    return module


def install(machine: Machine, patch: pytest.MonkeyPatch) -> Machine:
    """Put a machine's GPU and its TensorRT in place of what is really here."""
    patch.setitem(sys.modules, "tensorrt", _tensorrt(machine))
    patch.setattr(device, "cuda", _cuda(machine))
    return machine
