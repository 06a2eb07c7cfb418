"""Targets ``trt`` and ``trt-rtx``: an engine of TensorRT or TensorRT-RTX on the GPU at hand.

One context and one stream serve all threads in turn. Batches are padded up to the least shape that the engine takes,
and split at the largest; nothing is built inside a call. The GPU's own clock is read around each call: what the host
waits for besides are copies and the way there.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from edgebert.artifact import Artifact
from edgebert.errors import InputError
from edgebert.profiles import Profile
from edgebert.runtimes import device
from edgebert.runtimes.engine import Held
from edgebert.runtimes.fixed import cut_back, fitted, to_its_shape
from edgebert.runtimes.session import Array, Feed, Session, SessionConfig, checked
from edgebert.runtimes.trt_engines import Place, open_engine
from edgebert.runtimes.trt_library import Library
from edgebert.tokenizer import pad_id


def open_trt(artifact: Artifact, config: SessionConfig) -> Session:
    """A session of TensorRT. Raises EnvironmentMissing without a GPU; else see ``trt_engines.py``."""
    return _open("trt", artifact, config)


def open_rtx(artifact: Artifact, config: SessionConfig) -> Session:
    """The same of TensorRT-RTX."""
    return _open("trt-rtx", artifact, config)


def _open(target: str, artifact: Artifact, config: SessionConfig) -> Session:
    device.require()
    return to_its_shape(_TrtSession(artifact, config, Library(target)), artifact)


class _TrtSession:
    def __init__(self, artifact: Artifact, config: SessionConfig, library: Library) -> None:
        self._artifact, self._config = artifact, config
        place = Place(library.identity(device.capability()), device.name())
        self._held: Held[_Engine] = Held(partial(_Engine, artifact, config, library, place), artifact, forks=False)
        self._fill = {"input_ids": pad_id(artifact)}
        engine = self._held.get()
        self._about = {
            "runtime": place.identity.library, "version": place.identity.version, "provider": "GPU",
            "device": place.gpu, "capability": place.identity.capability, "threads": config.thread_count,
            "engine": engine.source, "profile": str(engine.profile), "device_bytes": engine.bytes,
        }  # fmt: skip
        self._meter = device.Meter()

    def run(self, feed: Feed) -> dict[str, Array]:
        engine = self._held.get()
        arrays = checked(feed, self._artifact)
        rows, length = next(iter(arrays.values())).shape
        (fewest, shortest), (most, longest) = engine.profile.least, engine.profile.most
        if length > longest:
            what = f"{length} tokens, where the engine takes {longest}"
            raise InputError(what, str(self._artifact.path), "cut the texts, or export it with a longer --profile")
        width = max(length, shortest)
        parts = []
        with self._meter.call() as took:
            for start in range(0, rows, most):
                part = {name: array[start : start + most] for name, array in arrays.items()}
                count = max(fewest, min(most, rows - start))
                found, milliseconds = engine.compute(fitted(part, count, width, self._fill))
                parts.append(found)
                took(milliseconds)
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return cut_back(whole, self._artifact.manifest.task, rows, length)

    def facts(self) -> dict[str, Any]:
        return {**self._about, **self._meter.facts()}

    def close(self) -> None:
        self._held.close()


class _Engine:
    """An engine with what it needs on the GPU, for batches of its profile; not for two threads at once."""

    def __init__(self, artifact: Artifact, config: SessionConfig, library: Library, place: Place) -> None:
        free = device.free_bytes()
        self._engine, self.profile, self.source = open_engine(artifact, config, library, place)
        self._where = str(artifact.path)
        self._context = self._engine.create_execution_context()
        self._stream = device.Stream()
        names = [self._engine.get_tensor_name(place) for place in range(self._engine.num_io_tensors)]
        self._inputs = [name for name in names if library.is_input(self._engine, name)]
        self._outputs = [name for name in names if name not in self._inputs]
        self._dtypes = {name: np.dtype(library.dtype(self._engine, name)) for name in names}
        self._buffers = self._allocated(self.profile)
        # What others take or give back on this GPU meanwhile is counted too.
        self.bytes = max(0, free - device.free_bytes())
        # Not at exit: the driver may be gone by then, and takes all back itself.
        weakref.finalize(self, _release, [*self._buffers.values(), self._stream]).atexit = False

    def compute(self, arrays: Feed) -> tuple[dict[str, Array], float]:
        """The outputs, and the milliseconds that the GPU took for them."""
        held = {name: np.ascontiguousarray(arrays[name], self._dtypes[name]) for name in self._inputs}
        for name, array in held.items():
            self._shape(name, array.shape)
            self._stream.to_device(array, self._buffers[name])
        shapes = {name: tuple(self._context.get_tensor_shape(name)) for name in self._outputs}
        found = {name: np.empty(shape, self._dtypes[name]) for name, shape in shapes.items()}
        self._stream.mark(0)
        if not self._context.execute_async_v3(self._stream.handle):
            raise InputError("the engine does not take this batch", self._where, "export the artifact again")
        self._stream.mark(1)
        for name, array in found.items():
            self._stream.to_host(self._buffers[name], array)
        self._stream.wait()
        return found, self._stream.milliseconds()

    def _shape(self, name: str, shape: Sequence[int]) -> None:
        if not self._context.set_input_shape(name, tuple(shape)):
            what = f"the engine takes no {name} of shape {list(shape)}"
            raise InputError(what, self._where, "export the artifact again")

    def _allocated(self, profile: Profile) -> dict[str, device.Buffer]:
        """Memory for the largest batch, whose addresses then stay."""
        for name in self._inputs:
            self._shape(name, profile.most)
        shapes = {name: self._context.get_tensor_shape(name) for name in self._dtypes}
        buffers = {name: device.Buffer(int(np.prod(tuple(shapes[name]))), self._dtypes[name]) for name in self._dtypes}
        for name, buffer in buffers.items():
            self._context.set_tensor_address(name, buffer.address)
        return buffers


def _release(held: Sequence[device.Buffer | device.Stream]) -> None:
    for each in held:
        each.close()
