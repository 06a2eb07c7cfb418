"""What is compared: ONNX Runtime on edgebert's graph, and PyTorch with its fused attention, as it is and compiled.

Each is opened once for a model, takes a batch to the device once for a shape, and is then called: inputs and outputs
stay there, as in everybody's published numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from gpu.graphs import WEIGHTS, Shape, filled

Feed = Mapping[str, Any]
Call = Callable[[], Any]

# Full batches have no padding to leave out; bf16 is as fast as fp16, and there to be compared with PyTorch.
_TABLES: Mapping[str, tuple[str, ...]] = {"fp16-packed": ("ragged",), "bf16": ()}


class Candidate(Protocol):
    """One way to run a model, and the tables of latencies that it is in, if any: ``full``, ``ragged``."""

    name: str
    tables: tuple[str, ...]

    def bound(self, feed: Feed) -> Call:
        """A call on this batch, which begins work on the device; it gives the logits as the device holds them."""

    def logits(self, feed: Feed) -> Any:
        """float32 [batch, labels] on the host."""


class Ort:
    """ONNX Runtime on the fused graph, padded or packed; the provider that really runs is asked for."""

    def __init__(self, graphs: Path, shape: Shape, form: str, model: Any, device: str) -> None:
        import onnxruntime

        self._ort, self._device, self.tables = onnxruntime, device, _TABLES.get(form, ("full", "ragged"))
        self.name = f"edgebert cuda {form}" if device == "cuda" else f"edgebert graph {form} on the CPU"
        graph, weights = filled(graphs, shape, form, model)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_external_initializers_from_files_in_memory([WEIGHTS], [weights], [len(weights)])
        wanted: Any = "CPUExecutionProvider"
        if device == "cuda":
            stream = torch.cuda.current_stream().cuda_stream
            wanted = ("CUDAExecutionProvider", {"user_compute_stream": str(stream), "use_tf32": "0"})
        self._session = onnxruntime.InferenceSession(graph, options, providers=[wanted])
        name = wanted if isinstance(wanted, str) else wanted[0]
        if (real := self._session.get_providers()[0]) != name:
            raise RuntimeError(f"{name} did not load, {real} would run it")

    def bound(self, feed: Feed) -> Call:
        """See :class:`Candidate`."""
        binding = self._session.io_binding()
        held = [
            self._ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self._device, 0)
            for array in feed.values()
        ]
        for name, value in zip(feed, held, strict=True):
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("logits", self._device)

        def call() -> Any:
            self._session.run_with_iobinding(binding)
            # The inputs live as long as the call may be made.
            return binding, held

        return call

    def logits(self, feed: Feed) -> Any:
        """See :class:`Candidate`."""
        binding, _ = self.bound(feed)()
        if self._device == "cuda":
            torch.cuda.synchronize()
        return binding.copy_outputs_to_cpu()[0].astype(np.float32)


class Torch:
    """PyTorch: SDPA, in fp16 on a GPU; ``compiled`` by max-autotune with CUDA graphs."""

    def __init__(self, model: Any, device: str, *, compiled: bool = False) -> None:
        self._device = device
        kind = torch.float16 if device == "cuda" else torch.float32
        self._model = model.to(device, kind)
        precision = "fp16" if device == "cuda" else "fp32"
        self.name = f"torch.compile {precision}" if compiled else f"torch SDPA {precision}"
        # It would be compiled anew for each of the lengths.
        self.tables = ("full",) if compiled else ("full", "ragged")
        if compiled:
            self._model = torch.compile(self._model, mode="max-autotune", dynamic=False)

    def bound(self, feed: Feed) -> Call:
        """See :class:`Candidate`."""
        there = {name: torch.from_numpy(array).to(self._device) for name, array in feed.items()}

        def call() -> Any:
            with torch.inference_mode():
                return self._model(**there).logits

        return call

    def logits(self, feed: Feed) -> Any:
        """See :class:`Candidate`."""
        return self.bound(feed)().float().cpu().numpy()
