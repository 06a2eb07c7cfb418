"""A model of Triton's Python backend: token vectors in, one vector a text out. Runs there, without edgebert.

Pooling and normalization as edgebert's own (``serving/answers.py``), which stay outside of graphs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What the backend calls."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Read what lies beside this file."""
        folder = Path(args["model_repository"]) / args["model_version"]
        self._settings = json.loads((folder / "settings.json").read_text("utf-8"))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        hidden = pb_utils.get_input_tensor_by_name(request, "last_hidden_state").as_numpy()
        mask = pb_utils.get_input_tensor_by_name(request, "attention_mask").as_numpy()
        vectors = self._pooled(hidden, mask)
        if self._settings["normalize"]:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return pb_utils.InferenceResponse([pb_utils.Tensor("embedding", vectors.astype(np.float32))])

    def _pooled(self, hidden: Any, mask: Any) -> Any:
        visible = mask[:, :, None].astype(np.float32)
        if self._settings["mode"] == "cls":
            return hidden[np.arange(len(hidden)), mask.argmax(axis=1)]
        if self._settings["mode"] == "max":
            return np.where(visible > 0, hidden, np.float32(-1e9)).max(axis=1)
        return (hidden * visible).sum(axis=1) / np.maximum(visible.sum(axis=1), 1e-9)
