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
# Run options of a CUDA graph: which one this call replays, or none.
_GRAPH, _NO_GRAPH = "gpu_graph_id", "-1"


class Candidate(Protocol):
    """One way to run a model, and the tables of latencies that it is in, if any: ``full``, ``ragged``.

    ``few``: for few shapes, since each takes long to make; ``captured``: its calls replay CUDA graphs.
    """

    name: str
    tables: tuple[str, ...]
    few: bool
    captured: bool

    def bound(self, feed: Feed) -> Call:
        """A call on this batch, which begins work on the device; it gives the logits as the device holds them."""

    def logits(self, feed: Feed) -> Any:
        """float32 [batch, labels] on the host."""


class Ort:
    """ONNX Runtime on the fused graph, padded or packed; the provider that really runs is asked for.

    ``captured``: each batch that is bound becomes a CUDA graph, and calls replay it.
    """

    def __init__(
        self, graphs: Path, shape: Shape, form: str, model: Any, device: str,
        *, captured: bool = False,
    ) -> None:  # fmt: skip
        import onnxruntime

        self._ort, self._device, self.tables = onnxruntime, device, _TABLES.get(form, ("full", "ragged"))
        self.name = f"edgebert cuda {form}" if device == "cuda" else f"edgebert graph {form} on the CPU"
        self.name += " captured" if captured else ""
        self.few, self.captured, self._graphs = False, captured, 0
        graph, weights = filled(graphs, shape, form, model)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_external_initializers_from_files_in_memory([WEIGHTS], [weights], [len(weights)])
        wanted: Any = "CPUExecutionProvider"
        if device == "cuda":
            stream = torch.cuda.current_stream().cuda_stream
            settings = {"user_compute_stream": str(stream), "use_tf32": "0", "enable_cuda_graph": str(int(captured))}
            wanted = ("CUDAExecutionProvider", settings)
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
        options = self._replaying(binding)

        def call() -> Any:
            self._session.run_with_iobinding(binding, options)
            # The inputs live as long as the call may be made.
            return binding, held

        return call

    def _replaying(self, binding: Any) -> Any:
        """Options of calls that replay a CUDA graph of their own, with the binding's outputs where they will stay."""
        if not self.captured:
            return None
        plain, options = self._ort.RunOptions(), self._ort.RunOptions()
        plain.add_run_config_entry(_GRAPH, _NO_GRAPH)
        self._session.run_with_iobinding(binding, plain)
        for name, value in zip(["logits"], binding.get_outputs(), strict=True):
            binding.bind_ortvalue_output(name, value)
        self._graphs += 1
        options.add_run_config_entry(_GRAPH, str(self._graphs))
        return options

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
        self.few, self.captured = compiled, compiled
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
