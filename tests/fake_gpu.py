"""An ONNX Runtime with GPU providers, without a GPU: the CPU computes, and what was asked is written down."""

from __future__ import annotations

import threading
import types
from dataclasses import dataclass, field
from typing import Any

import fake_trt
import numpy as np
import onnx
import onnxruntime
import packed_reference
import pytest

from edgebert.runtimes import ort_gpu
from edgebert.runtimes.session import Array

GPU = ("TensorrtExecutionProvider", "CUDAExecutionProvider")


@dataclass
class Runtime:
    """What is installed and loads, what sessions were made with, and what was asked of them in which order."""

    available: tuple[str, ...] = (*GPU, "CPUExecutionProvider")
    loads: tuple[str, ...] = GPU
    settings: list[dict[str, dict[str, str]]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    # The graph that each run named, -1 for none, its rows and its tokens.
    runs: list[tuple[Any, ...]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    capture_fails: bool = False


class _Value:
    """Memory of the GPU: it keeps what it was given, not who gave it."""

    def __init__(self, runtime: Runtime, array: Array) -> None:
        self._runtime, self.array = runtime, array.copy()

    def update_inplace(self, array: Array) -> None:
        assert (array.shape, array.dtype) == (self.array.shape, self.array.dtype)
        self._runtime.calls.append("update")
        self.array[...] = array


class _Binding:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.inputs, self.outputs, self.found = dict[str, _Value](), list[str](), list[Array]()
        self.kept = dict[str, _Value]()

    def bind_ortvalue_input(self, name: str, value: _Value) -> None:
        self.inputs[name] = value

    def bind_output(self, name: str, place: str) -> None:
        assert place == "cuda"
        self.outputs.append(name)

    def get_outputs(self) -> list[_Value]:
        return [_Value(self._runtime, array) for array in self.found]

    def bind_ortvalue_output(self, name: str, value: _Value) -> None:
        assert value.array.shape == self.found[self.outputs.index(name)].shape
        self.kept[name] = value

    def copy_outputs_to_cpu(self) -> list[Array]:
        self._runtime.calls.append("copy")
        return self.found


class _Packed:
    """A session on a graph that a CPU has no kernels for."""

    def __init__(self, model: bytes) -> None:
        self._model = model
        self._outputs = onnx.load_model_from_string(model).graph.output

    def get_outputs(self) -> list[Any]:
        return list(self._outputs)

    def run(self, outputs: list[str], feed: dict[str, Array]) -> list[Array]:
        return packed_reference.evaluate(self._model, outputs, feed)


def _cpu(model: bytes, options: Any) -> Any:
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def install(patch: pytest.MonkeyPatch, runtime: Runtime) -> tuple[Runtime, fake_trt.Machine]:
    """Put this runtime, and a GPU, in place of what is really here."""
    machine = fake_trt.install(fake_trt.Machine(), patch)

    class Session:
        def __init__(self, model: bytes, options: Any, providers: list[Any]) -> None:
            runtime.settings.append(dict(each for each in providers if not isinstance(each, str)))
            wanted = [each if isinstance(each, str) else each[0] for each in providers]
            self._providers = [name for name in wanted if name in (*runtime.loads, "CPUExecutionProvider")]
            self._real: Any = _Packed(model) if b"RemovePadding" in model else _cpu(model, options)
            self.get_outputs = self._real.get_outputs
            self._shapes = dict[str, tuple[int, ...]]()
            runtime.calls.append("open")

        def get_providers(self) -> list[str]:
            return self._providers

        def io_binding(self) -> _Binding:
            runtime.calls.append("bind")
            return _Binding(runtime)

        def run_with_iobinding(self, binding: _Binding, options: Any = None) -> None:
            feed = {name: value.array for name, value in binding.inputs.items()}
            graph = "-1" if options is None else options.get_run_config_entry("gpu_graph_id")
            shape = next(iter(feed.values())).shape
            # ONNX Runtime keeps what it captures for each thread.
            runtime.threads.add(threading.get_ident())
            if graph != "-1":
                if runtime.capture_fails:
                    raise RuntimeError("operation not permitted when stream is capturing")
                # What is captured is replayed: in its shape, and into memory that stays.
                assert runtime.settings[-1]["CUDAExecutionProvider"]["enable_cuda_graph"] == "1"
                assert self._shapes.setdefault(graph, shape) == shape
                assert binding.kept.keys() == set(binding.outputs)
            runtime.runs.append((graph, *shape))

            def compute() -> None:
                binding.found = self._real.run(binding.outputs, feed)

            machine.later("run", compute)

    fake = types.SimpleNamespace(
        __version__="1.31.1", get_available_providers=lambda: list(runtime.available), InferenceSession=Session,
        SessionOptions=onnxruntime.SessionOptions, RunOptions=onnxruntime.RunOptions,
        OrtValue=types.SimpleNamespace(
            ortvalue_from_numpy=lambda array, kind, number: _Value(runtime, np.asarray(array)),
        ),
    )  # fmt: skip
    patch.setattr(ort_gpu, "onnxruntime", fake)
    return runtime, machine
