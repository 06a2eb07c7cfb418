"""Target ``cpu``: ONNX Runtime's CPU provider on the portable graph."""

from __future__ import annotations

from typing import Any

import onnxruntime

from edgebert.artifact import Artifact
from edgebert.errors import EnvironmentMissing, InputError
from edgebert.runtimes.session import Array, Feed, Session, SessionConfig

_MODEL = "model.onnx"
_PROVIDER = "CPUExecutionProvider"


def open(artifact: Artifact, config: SessionConfig) -> Session:
    """A session on the artifact's graph. Raises InputError where ONNX Runtime refuses the graph."""
    return _OrtSession(artifact, config)


class _OrtSession:
    def __init__(self, artifact: Artifact, config: SessionConfig) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = config.thread_count
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Lengths vary from call to call: a memory plan per shape would only grow.
        options.enable_mem_pattern = False
        # Weights beside the graph are found by path; a single file is read once and checked as read.
        beside = artifact.has(f"{_MODEL}_data")
        model = str(artifact.path / _MODEL) if beside else artifact.read(_MODEL)
        try:
            session = onnxruntime.InferenceSession(model, options, providers=[_PROVIDER])
        except Exception as error:
            # onnxruntime's exception classes share no public base.
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            reason = str(error).strip().splitlines()[0][:200]
            raise InputError(
                f"ONNX Runtime refuses the graph ({reason})", str(artifact.path / _MODEL), "export it again"
            ) from error
        if session.get_providers()[:1] != [_PROVIDER]:
            raise EnvironmentMissing(f"{_PROVIDER} is not available", "onnxruntime", "install onnxruntime")
        self._session: Any = session
        self._threads = config.thread_count
        self._outputs = [output.name for output in session.get_outputs()]

    def run(self, feed: Feed) -> dict[str, Array]:
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(feed)), strict=True))

    def facts(self) -> dict[str, Any]:
        return {
            "runtime": "onnxruntime",
            "version": onnxruntime.__version__,
            "provider": _PROVIDER,
            "threads": self._threads,
        }

    def close(self) -> None:
        self._session = None
