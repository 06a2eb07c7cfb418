"""sentence-transformers' ONNX backend: the classifier as an encoder whose pooler and head are its dense modules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from worker import MAX_TOKENS, Feed, Settings, once, serve_peer, versions

# Where sentence-transformers puts the graph of each precision.
FILES = {"fp32": "onnx/model.onnx", "int8": "onnx/model_qint8_avx512_vnni.onnx"}


class SentenceTransformers:
    """``precision`` fp32 or int8, quantized as the library's documentation says for AVX-512 VNNI."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = Path(settings["folder"])

    def prepare(self) -> None:
        """Put the modules together, let the library export the encoder, and quantize it."""
        plain = once(self._folder / "plain", self._assemble)
        exported = once(self._folder / "fp32", lambda folder: self._export(plain, folder))
        if self._settings["precision"] == "int8":
            once(self._folder / "int8", lambda folder: self._quantize(exported, folder))

    def _assemble(self, folder: Path) -> None:
        from sentence_transformers import SentenceTransformer, models
        from transformers import AutoModelForSequenceClassification

        source = AutoModelForSequenceClassification.from_pretrained(self._settings["model"], torch_dtype=torch.float32)
        pooler, head = source.bert.pooler.dense, source.classifier
        encoder = models.Transformer(self._settings["model"], max_seq_length=MAX_TOKENS)
        encoder.auto_model.float()
        dense = models.Dense(pooler.in_features, pooler.out_features, activation_function=torch.nn.Tanh())
        last = models.Dense(head.in_features, head.out_features, activation_function=torch.nn.Identity())
        dense.linear.load_state_dict(pooler.state_dict())
        last.linear.load_state_dict(head.state_dict())
        first_token = models.Pooling(pooler.in_features, pooling_mode="cls")
        SentenceTransformer(modules=[encoder, first_token, dense, last], device="cpu").save(str(folder))

    def _export(self, plain: Path, folder: Path) -> None:
        from sentence_transformers import SentenceTransformer

        options = {"provider": "CPUExecutionProvider", "export": True}
        model = SentenceTransformer(str(plain), backend="onnx", device="cpu", model_kwargs=options)
        model.save_pretrained(str(folder))

    def _quantize(self, exported: Path, folder: Path) -> None:
        import shutil

        from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model

        shutil.copytree(exported, folder, dirs_exist_ok=True)
        model = SentenceTransformer(str(folder), backend="onnx", device="cpu", model_kwargs=self._options("fp32"))
        export_dynamic_quantized_onnx_model(model, "avx512_vnni", str(folder))

    @staticmethod
    def _options(precision: str) -> dict[str, Any]:
        return {"provider": "CPUExecutionProvider", "file_name": FILES[precision]}

    def open(self) -> dict[str, str]:
        """Load the graph with the threads asked for."""
        import onnxruntime
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(self._settings["threads"])
        session = onnxruntime.SessionOptions()
        session.intra_op_num_threads = self._settings["threads"]
        precision = self._settings["precision"]
        options = {**self._options(precision), "session_options": session}
        folder = str(self._folder / precision)
        self._model = SentenceTransformer(folder, backend="onnx", device="cpu", model_kwargs=options)
        return {
            "versions": versions("sentence-transformers", "optimum-onnx", "transformers", "onnxruntime", "torch"),
            "settings": "qint8, avx512_vnni" if precision == "int8" else "fp32",
        }

    def logits(self, feed: Feed) -> Any:
        """Through all modules, from tensors to tensors."""
        with torch.inference_mode():
            features = {name: torch.from_numpy(array) for name, array in feed.items()}
            return self._model(features)["sentence_embedding"]

    def labels(self, texts: Sequence[str]) -> list[int]:
        """Through ``encode``, which sorts by length and cuts into batches itself."""
        found = self._model.encode(list(texts), batch_size=self._settings["batch"], show_progress_bar=False)
        labels: list[int] = found.argmax(axis=-1).tolist()
        return labels


if __name__ == "__main__":
    serve_peer(SentenceTransformers)
