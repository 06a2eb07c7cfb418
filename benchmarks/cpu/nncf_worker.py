"""OpenVINO on what NNCF's post-training quantization makes of the model, calibrated as its documentation says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from worker import Feed, Settings, batches, once, padded, read_texts, serve_peer, versions

SAMPLES = 300


class Nncf:
    """``precision`` int8; ``hint`` is OpenVINO's performance hint, which decides how the threads are shared out."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = Path(settings["folder"])

    def prepare(self) -> None:
        """Convert from PyTorch, and quantize with the scheme for transformers on 300 texts."""
        once(self._folder / "int8", self._convert)

    def _convert(self, folder: Path) -> None:
        import nncf
        import torch
        from transformers import AutoModelForSequenceClassification

        source = AutoModelForSequenceClassification.from_pretrained(self._settings["model"], torch_dtype=torch.float32)
        example = {name: torch.from_numpy(array) for name, array in padded([[101, 102]]).items()}
        model = openvino.convert_model(source.eval(), example_input=example)
        data = nncf.Dataset(list(self._calibration()))
        quantized = nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=SAMPLES)
        openvino.save_model(quantized, folder / "model.xml")

    def _calibration(self) -> Iterator[Feed]:
        for rows, feed in batches(self._tokenizer, read_texts(self._settings["train_texts"])[:SAMPLES], 1):
            del rows
            yield feed

    @property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self._settings["model"])

    def open(self) -> dict[str, str]:
        """Compile for any shape; one queue with as many requests as OpenVINO wants under the hint."""
        core = openvino.Core()
        options = {"PERFORMANCE_HINT": self._settings["hint"], "INFERENCE_NUM_THREADS": self._settings["threads"]}
        self._model = core.compile_model(self._folder / "int8" / "model.xml", "CPU", options)
        self._request = self._model.create_infer_request()
        self._queue = openvino.AsyncInferQueue(self._model)
        self._tokens = self._tokenizer
        streams = self._model.get_property("NUM_STREAMS")
        return {
            "versions": versions("nncf", "openvino", "transformers", "torch"),
            "settings": f"ModelType.TRANSFORMER, {SAMPLES} samples, {self._settings['hint']}, streams {streams}",
        }

    def logits(self, feed: Feed) -> Any:
        """One request, arrays to arrays."""
        return self._request.infer(feed, share_inputs=True)[0]

    def labels(self, texts: Sequence[str]) -> list[int]:
        """Length-sorted batches through the queue."""
        found = np.empty(len(texts), np.int64)

        def take(request: Any, rows: list[int]) -> None:
            found[rows] = request.get_output_tensor(0).data.argmax(axis=-1)

        self._queue.set_callback(take)
        for rows, feed in batches(self._tokens, texts, self._settings["batch"]):
            self._queue.start_async(feed, userdata=rows)
        self._queue.wait_all()
        return found.tolist()


if __name__ == "__main__":
    serve_peer(Nncf)
