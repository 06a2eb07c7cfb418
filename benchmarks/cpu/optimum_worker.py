"""Optimum's ONNX Runtime classes: exported as they export, quantized by their configuration for AVX-512 VNNI."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from worker import MAX_TOKENS, Feed, Settings, once, serve_peer, versions

# Where Optimum puts the graph of each precision.
FILES = {"fp32": "model.onnx", "int8": "model_quantized.onnx"}


class Optimum:
    """``precision`` fp32 or int8; texts through transformers' pipeline, sorted by length where ``batch`` is above 1."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = Path(settings["folder"])

    def prepare(self) -> None:
        """Export, and quantize dynamically with the predefined configuration for this instruction set."""
        exported = once(self._folder / "fp32", self._export)
        if self._settings["precision"] == "int8":
            once(self._folder / "int8", lambda folder: self._quantize(exported, folder))

    def _export(self, folder: Path) -> None:
        from optimum.onnxruntime import ORTModelForSequenceClassification
        from transformers import AutoTokenizer

        model = ORTModelForSequenceClassification.from_pretrained(self._settings["model"], export=True)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(self._settings["model"]).save_pretrained(folder)

    def _quantize(self, exported: Path, folder: Path) -> None:
        from optimum.onnxruntime import ORTQuantizer
        from optimum.onnxruntime.configuration import AutoQuantizationConfig

        config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=self._settings["per_channel"])
        ORTQuantizer.from_pretrained(exported).quantize(save_dir=folder, quantization_config=config)

    def open(self) -> dict[str, str]:
        """Load the graph with the threads asked for."""
        import onnxruntime
        from optimum.onnxruntime import ORTModelForSequenceClassification
        from transformers import AutoTokenizer, pipeline

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._settings["threads"]
        precision = self._settings["precision"]
        self._model = ORTModelForSequenceClassification.from_pretrained(
            self._folder / precision, file_name=FILES[precision], session_options=options,
            provider="CPUExecutionProvider",
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(self._folder / "fp32")
        self._pipeline = pipeline(
            "text-classification", model=self._model, tokenizer=tokenizer, device="cpu",
            batch_size=self._settings["batch"], truncation=True, max_length=MAX_TOKENS,
        )  # fmt: skip
        scheme = "avx512_vnni, dynamic" + ", per channel" * self._settings["per_channel"]
        return {
            "versions": versions("optimum-onnx", "transformers", "onnxruntime", "torch"),
            "settings": scheme if precision == "int8" else "fp32",
        }

    def logits(self, feed: Feed) -> Any:
        """From tensors to tensors, as the class is called."""
        return self._model(**{name: torch.from_numpy(array) for name, array in feed.items()}).logits

    def labels(self, texts: Sequence[str]) -> list[int]:
        """Through the pipeline, which takes texts as they come."""
        order = list(range(len(texts)))
        if self._settings["batch"] > 1:
            order.sort(key=lambda i: len(texts[i]))
        answers = self._pipeline([texts[i] for i in order])
        found = [0] * len(texts)
        for place, answer in zip(order, answers, strict=True):
            found[place] = self._model.config.label2id[answer["label"]]
        return found


if __name__ == "__main__":
    serve_peer(Optimum)
