"""Targets ``cuda`` and ``ort-trt``: ONNX Runtime's providers for NVIDIA GPUs.

ONNX Runtime falls back to the CPU with a line in a log where a provider cannot load, so the provider that a session
really has is asked of it, and another is an error. Inputs and outputs are bound to the GPU's memory; small batches are
padded to one of few shapes, each captured once and replayed (CUDA graphs): launching the kernels of one text takes
longer than computing them. Work goes to a stream of ours, whose clock times it.
https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html and .../TensorRT-ExecutionProvider.html
"""

from __future__ import annotations

import logging
import weakref
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnxruntime

from edgebert.artifact import Artifact
from edgebert.checked_graph import read_checked_graph
from edgebert.errors import EnvironmentMissing
from edgebert.files import private_folder
from edgebert.graph_guard import EXTERNAL
from edgebert.profiles import Profile, default_profile
from edgebert.runtimes import device
from edgebert.runtimes.buckets import bucket, is_captured
from edgebert.runtimes.engine import Held
from edgebert.runtimes.fixed import cut_back, fitted, to_its_shape
from edgebert.runtimes.gpu_thread import on_gpu_thread
from edgebert.runtimes.ort import refusals
from edgebert.runtimes.session import Array, Feed, Session, SessionConfig, checked
from edgebert.tokenizer import pad_id

log = logging.getLogger("edgebert")

_CUDA, _TRT, _CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
# An option of a run: which CUDA graph it captures and then replays, from 1 on; and none, for this run.
_GRAPH, _NO_GRAPH = "gpu_graph_id", "-1"
# Ampere is the first to multiply in it.
_LEAST_FOR_BF16 = 8.0
_REMEDY = "pip uninstall onnxruntime; pip install 'edgebert[gpu]' (the two cannot live side by side)"


def require_cuda() -> None:
    """Raise EnvironmentMissing where ONNX Runtime has no CUDA provider, or there is no GPU."""
    _require(_CUDA)


def require_trt() -> None:
    """Raise EnvironmentMissing where ONNX Runtime has no TensorRT provider, or there is no GPU."""
    _require(_TRT)


def _require(provider: str) -> None:
    if provider not in onnxruntime.get_available_providers():
        raise EnvironmentMissing(f"{provider} is not in it", f"onnxruntime {onnxruntime.__version__}", _REMEDY)
    device.require()


def open_cuda(artifact: Artifact, config: SessionConfig) -> Session:
    """A session of the CUDA provider. Raises EnvironmentMissing where it cannot load, InputError for the graph."""
    return to_its_shape(_GpuSession(artifact, config, _CUDA), artifact)


def open_trt(artifact: Artifact, config: SessionConfig) -> Session:
    """The same of the TensorRT provider, whose engine is built here, before any call."""
    return to_its_shape(_GpuSession(artifact, config, _TRT), artifact)


class _GpuSession:
    def __init__(self, artifact: Artifact, config: SessionConfig, provider: str) -> None:
        self._artifact = artifact
        make = partial(_Engine, artifact, config, provider)
        self._held: Held[_Engine] = Held(lambda: on_gpu_thread(make), artifact, forks=False)
        engine = self._held.get()
        self._about = {
            "runtime": "onnxruntime", "version": onnxruntime.__version__, "provider": engine.provider,
            "device": device.name(), "threads": config.thread_count, "device_bytes": engine.bytes,
        }  # fmt: skip
        self._meter = device.Meter()
        self._captured = engine.captured
        self._given = self._computed = 0

    def run(self, feed: Feed) -> dict[str, Array]:
        engine = self._held.get()
        arrays = checked(feed, self._artifact)
        with self._meter.call() as took, refusals("this input", self._artifact, "check its token ids and shapes"):
            answer = on_gpu_thread(partial(engine.compute, arrays))
            took(answer.milliseconds)
            self._captured = engine.captured
            self._given += next(iter(arrays.values())).size
            self._computed += answer.tokens
        return answer.outputs

    def facts(self) -> dict[str, Any]:
        padding = 1 - self._given / self._computed if self._computed else 0.0
        return {**self._about, "captured": self._captured, "padding": round(padding, 4), **self._meter.facts()}

    def close(self) -> None:
        self._held.close()


@dataclass(frozen=True)
class _Answer:
    """What a batch's outputs are, how long the GPU took for them, and for how many tokens, padding included."""

    outputs: dict[str, Array]
    milliseconds: float
    tokens: int


@dataclass
class _Bound:
    """A binding of a session, the GPU's memory that it reads from, and how it runs: as which CUDA graph, if any."""

    binding: Any
    inputs: dict[str, Any]
    options: Any


class _Engine:
    """A session with its stream, for the GPU's thread alone."""

    def __init__(self, artifact: Artifact, config: SessionConfig, provider: str) -> None:
        if artifact.manifest.precision == "bf16" and float(device.capability()) < _LEAST_FOR_BF16:
            what = f"no bf16 on a GPU of compute capability {device.capability()}"
            raise EnvironmentMissing(what, device.name(), f"use fp16, or a GPU from {_LEAST_FOR_BF16} on")
        free = device.free_bytes()
        self._artifact, self._fill = artifact, {"input_ids": pad_id(artifact)}
        self._stream = device.Stream()
        self._captures = provider == _CUDA and _can_be_captured(artifact)
        # In a list, by which it goes before the stream that it works on.
        self._sessions = [self._opened(artifact, config, provider)]
        weakref.finalize(self, _release, self._sessions, self._stream).atexit = False
        self.provider = provider
        self._outputs = [output.name for output in self._sessions[0].get_outputs()]
        # By shape: captured work finds its inputs where they were; None where capturing failed.
        self._graphs: dict[tuple[int, int], _Bound | None] = {}
        for sizes in _warm(artifact):
            self.compute({spec.name: np.ones(sizes, np.int64) for spec in artifact.manifest.inputs})
        self.bytes = max(0, free - device.free_bytes())

    @property
    def captured(self) -> int:
        """How many shapes were captured so far."""
        return len([bound for bound in self._graphs.values() if bound is not None])

    def compute(self, arrays: Feed) -> _Answer:
        """The outputs of a batch, padded to one of few shapes where it may be."""
        asked = rows, length = next(iter(arrays.values())).shape
        shape, captured = self._shape(arrays)
        padded = arrays if shape == asked else fitted(arrays, *shape, self._fill)
        replayed = self._replayed(shape, padded) if captured else None
        outputs, milliseconds = self._run(replayed or self._bind(padded))
        if shape != asked:
            outputs = cut_back(outputs, self._artifact.manifest.task, rows, length)
        return _Answer(outputs, milliseconds, shape[0] * shape[1])

    def _shape(self, arrays: Feed) -> tuple[tuple[int, int], bool]:
        """The shape in which a batch is computed, and whether as a CUDA graph."""
        manifest, mask = self._artifact.manifest, arrays["attention_mask"]
        rows, length = mask.shape
        if manifest.fixed:
            return (rows, length), self._captures
        # A row without any token attends to all of its places, so that more of them would change it.
        if not self._captures or not rows or not mask.any(axis=1).all():
            return (rows, length), False
        shape = bucket(rows, length, manifest.max_length)
        return shape, is_captured(*shape)

    def _replayed(self, shape: tuple[int, int], arrays: Feed) -> _Bound | None:
        """What runs a shape as a CUDA graph, captured where it is seen first; None where that failed."""
        if shape not in self._graphs:
            # Its place is taken before it is tried: an id is never used for two shapes, which nobody else checks.
            self._graphs[shape] = None
            self._graphs[shape] = self._capture(arrays, str(len(self._graphs)))
        bound = self._graphs[shape]
        if bound is not None:
            for name, value in bound.inputs.items():
                value.update_inplace(np.ascontiguousarray(arrays[name]))
        return bound

    def _capture(self, arrays: Feed, graph: str) -> _Bound | None:
        """Run a shape as it comes, by which its outputs have their memory, and as the graph that is replayed."""
        bound = self._bind(arrays)
        self._sessions[0].run_with_iobinding(bound.binding, bound.options)
        self._stream.wait()
        for name, value in zip(self._outputs, bound.binding.get_outputs(), strict=True):
            bound.binding.bind_ortvalue_output(name, value)
        bound.options = _run_options(graph)
        try:
            self._sessions[0].run_with_iobinding(bound.binding, bound.options)
        except Exception as error:  # noqa: BLE001, of ONNX Runtime's many; the batch itself was just computed
            log.warning("a batch shape is not captured as a CUDA graph, and stays slower: %s", str(error))
            return None
        return bound

    def _run(self, bound: _Bound) -> tuple[dict[str, Array], float]:
        self._stream.mark(0)
        self._sessions[0].run_with_iobinding(bound.binding, bound.options)
        self._stream.mark(1)
        self._stream.wait()
        found = bound.binding.copy_outputs_to_cpu()
        return dict(zip(self._outputs, found, strict=True)), self._stream.milliseconds()

    def _bind(self, arrays: Feed) -> _Bound:
        binding, inputs = self._sessions[0].io_binding(), {}
        for name, array in arrays.items():
            inputs[name] = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), "cuda", 0)
            binding.bind_ortvalue_input(name, inputs[name])
        for name in self._outputs:
            binding.bind_output(name, "cuda")
        return _Bound(binding, inputs, _run_options(_NO_GRAPH))

    def _opened(self, artifact: Artifact, config: SessionConfig, provider: str) -> Any:
        model, weights = read_checked_graph(artifact, packs=provider == _CUDA)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = config.thread_count
        options.add_session_config_entry("session.load_model_format", "ONNX")
        if weights is not None:
            options.add_external_initializers_from_files_in_memory([EXTERNAL], [weights], [len(weights)])
        settings = {"device_id": "0", "user_compute_stream": str(self._stream.handle)}
        cuda = (_CUDA, {**settings, "use_tf32": "0", "enable_cuda_graph": str(int(self._captures))})
        wanted = [(_TRT, {**settings, **_trt_settings(artifact, config)}), cuda] if provider == _TRT else [cuda]
        with refusals("the graph", artifact, "export it again"):
            session = onnxruntime.InferenceSession(model, options, providers=[*wanted, _CPU])
        if (real := session.get_providers()[0]) != provider:
            what = f"{provider} did not load, {real} would run it"
            raise EnvironmentMissing(
                what, f"onnxruntime {onnxruntime.__version__}", "run edgebert doctor; see docs/gpu.md"
            )
        return session


def _can_be_captured(artifact: Artifact) -> bool:
    """Whether all of a graph runs on the GPU, in shapes that are known before it does.

    ONNX Runtime refuses to capture what falls back to the CPU, as other targets' graphs may; and how many tokens a
    packed graph computes the GPU alone knows.
    """
    manifest = artifact.manifest
    return ("fusion" in manifest.checks or manifest.fixed is not None) and not manifest.needs.get("packed")


def _run_options(graph: str) -> Any:
    options = onnxruntime.RunOptions()
    options.add_run_config_entry(_GRAPH, graph)
    return options


def _release(sessions: list[Any], stream: device.Stream) -> None:
    sessions.clear()
    stream.close()


def profile_of(artifact: Artifact) -> Profile:
    """The shapes that the TensorRT provider builds its engine for."""
    fixed = artifact.manifest.fixed
    return default_profile(artifact.manifest.max_length) if fixed is None else Profile(fixed, fixed, fixed)


def _warm(artifact: Artifact) -> list[tuple[int, int]]:
    """Shapes that are computed before the first call: kernels are loaded, engines built, graphs captured."""
    return profile_of(artifact).corners[-1:]


def _trt_settings(artifact: Artifact, config: SessionConfig) -> dict[str, str]:
    profile = profile_of(artifact)
    shapes = {"min": profile.least, "opt": profile.best, "max": profile.most}
    settings = {
        f"trt_profile_{name}_shapes": ",".join(
            "{}:{}x{}".format(spec.name, *sizes) for spec in artifact.manifest.inputs
        )
        for name, sizes in shapes.items()
    }
    typed = artifact.manifest.needs.get("typed") == "fp16"
    settings |= {"trt_fp16_enable": str(int(typed))}
    settings |= {"trt_int8_enable": str(int(artifact.manifest.precision.startswith("int8")))}
    if config.cache_dir is not None:
        # The provider's own names are the same for all models of one architecture: each has a folder by its content.
        folder = str(private_folder(config.cache_dir / f"ort-trt-{artifact.digest}"))
        settings |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": folder}
        settings |= {"trt_timing_cache_enable": "1", "trt_timing_cache_path": folder}
    return settings
