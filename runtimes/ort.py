"""Target ``cpu``: ONNX Runtime's CPU provider on the portable graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import onnxruntime

from edgebert.artifact import Artifact, made_for_int8_dot
from edgebert.checked_graph import read_checked_graph
from edgebert.errors import EnvironmentMissing, InputError
from edgebert.graph_guard import EXTERNAL, GRAPH
from edgebert.machine import has_int8_dot
from edgebert.runtimes.engine import Held
from edgebert.runtimes.fixed import to_its_shape
from edgebert.runtimes.session import Array, Feed, Session, SessionConfig, checked

_PROVIDER = "CPUExecutionProvider"
# What ONNX Runtime would fuse at load and then computes more slowly than the parts, an element at a time:
# docs/decisions/016-what-stands-around-the-products.md.
_SLOW = ("SkipLayerNormFusion",)
# Makes a float product and a sum one, before the product could become an integer one (static int8 of a fixed shape).
_GREEDY = ("MatMulAddFusion",)


def open(artifact: Artifact, config: SessionConfig) -> Session:
    """A session on the artifact's graph. Raises InputError where we or ONNX Runtime refuse the graph."""
    return to_its_shape(_OrtSession(artifact, config), artifact)


class _OrtSession:
    def __init__(self, artifact: Artifact, config: SessionConfig) -> None:
        self._artifact, self._config = artifact, config
        self._held: Held[Any] = Held(partial(_engine, artifact, config), artifact)
        self._outputs = [output.name for output in self._held.get().get_outputs()]

    def run(self, feed: Feed) -> dict[str, Array]:
        engine = self._held.get()
        arrays = checked(feed, self._artifact)
        with refusals("this input", self._artifact, "check its token ids and shapes"):
            results = engine.run(self._outputs, arrays)
        return dict(zip(self._outputs, results, strict=True))

    def facts(self) -> dict[str, Any]:
        return {
            "runtime": "onnxruntime",
            "version": onnxruntime.__version__,
            "provider": _PROVIDER,
            "threads": self._config.thread_count,
        }

    def close(self) -> None:
        self._held.close()


def _engine(artifact: Artifact, config: SessionConfig) -> Any:
    """ONNX Runtime on exactly the bytes that were checked."""
    typed = artifact.manifest.needs.get("typed")
    if artifact.manifest.precision == "bf16" and typed is None:
        raise InputError("ONNX Runtime computes nothing in bf16", str(artifact.path), "use target openvino")
    model, weights = read_checked_graph(artifact)
    if typed == "bf16":
        # A graph for GPUs, judged here: the only reason to load what writes graphs.
        from edgebert.runtimes.widened import widened

        model = widened(model)
    options = _options(artifact, config)
    if weights is not None:
        options.add_external_initializers_from_files_in_memory([EXTERNAL], [weights], [len(weights)])
    with refusals("the graph", artifact, "export it again"):
        engine = onnxruntime.InferenceSession(
            model, options, providers=[_PROVIDER], disabled_optimizers=unwanted_fusions(artifact.manifest.precision)
        )
    if engine.get_providers()[:1] != [_PROVIDER]:
        raise EnvironmentMissing(f"{_PROVIDER} is not available", "onnxruntime", "install onnxruntime")
    return engine


def unwanted_fusions(precision: str) -> list[str]:
    """What ONNX Runtime must not do with a graph of this precision."""
    return [*_SLOW, *(_GREEDY if precision.startswith("int8") else ())]


def _options(artifact: Artifact, config: SessionConfig) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = config.threads_a_call
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Lengths vary from call to call: a memory plan per shape would only grow.
    options.enable_mem_pattern = False
    # What was inspected was ONNX; ONNX Runtime must not take it for its own format.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if saturates_here(artifact):
        # ONNX Runtime then computes with unsigned weights: slower, and right (its documentation on quantization).
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def saturates_here(artifact: Artifact) -> bool:
    """Whether sums of 8-bit products may saturate on this CPU, for which the graph was not made.

    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html#when-and-why-do-i-need-to-try-u8u8
    """
    return made_for_int8_dot(artifact.manifest) and not has_int8_dot()


@contextmanager
def refusals(what: str, artifact: Artifact, remedy: str) -> Iterator[None]:
    """What ONNX Runtime refuses, as an error of ours."""
    try:
        yield
    except Exception as error:
        # onnxruntime's exception classes share no public base.
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        reason = str(error).strip().splitlines()[0][:200]
        where = str(artifact.path / GRAPH)
        raise InputError(f"ONNX Runtime refuses {what} ({reason})", where, remedy) from error
