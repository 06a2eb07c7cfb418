"""A model of Triton's Python backend: text in, token arrays out. Runs there without edgebert.

It reads the ``tokenizer.json`` beside it. Texts are strings [batch, 1], pairs of them [batch, 2]. Each request is
padded to a multiple of ``pad_to`` tokens: the next model batches only what has one shape.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Encoding, Tokenizer

MOST_CHARACTERS = 1_000_000


class TritonPythonModel:
    """What the backend calls."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Read what lies beside this file."""
        folder = Path(args["model_repository"]) / args["model_version"]
        self._settings = json.loads((folder / "settings.json").read_text("utf-8"))
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.enable_truncation(self._settings["max_length"], strategy="longest_first")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request; an error in one harms no other."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        rows = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()
        try:
            texts = [tuple(_text(part) for part in row) for row in rows]
        except ValueError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        arrays = self._padded(self._tokenizer.encode_batch([text if len(text) > 1 else text[0] for text in texts]))
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, arrays[name]) for name in self._settings["inputs"]])

    def _padded(self, found: Sequence[Encoding]) -> dict[str, Any]:
        step, longest = self._settings["pad_to"], max(len(each.ids) for each in found)
        width = max(self._settings["least"], min(self._settings["max_length"], -(-longest // step) * step))
        ids = np.full((len(found), width), self._settings["pad_id"], np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for row, each in enumerate(found):
            ids[row, : len(each.ids)], types[row, : len(each.ids)] = each.ids, each.type_ids
            mask[row, : len(each.ids)] = 1
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def _text(raw: Any) -> str:
    text = raw.decode("utf-8") if isinstance(raw, bytes) else str(raw)
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"a text of {len(text)} characters: pass parts of at most {MOST_CHARACTERS}")
    return text
