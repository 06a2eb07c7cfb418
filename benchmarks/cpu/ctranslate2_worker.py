"""CTranslate2's encoder. Its converter knows BERT up to the pooler; the head of two labels is numpy's."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from worker import Feed, Settings, batches, once, serve_peer, versions


class CTranslate2:
    """``precision`` int8; texts in length-sorted batches on ``replicas`` of the model, with one thread each."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = Path(settings["folder"])

    def prepare(self) -> None:
        """Convert to int8 weights, and keep the head beside them."""
        once(self._folder / self._settings["precision"], self._convert)

    def _convert(self, folder: Path) -> None:
        from transformers import AutoModelForSequenceClassification

        converter = ctranslate2.converters.TransformersConverter(self._settings["model"])
        converter.convert(str(folder), quantization=self._settings["precision"], force=True)
        head = AutoModelForSequenceClassification.from_pretrained(self._settings["model"]).float().classifier
        np.savez(folder / "head.npz", weight=head.weight.detach().numpy(), bias=head.bias.detach().numpy())

    def open(self) -> dict[str, str]:
        """Load the encoder and the head."""
        from transformers import AutoTokenizer

        precision, threads, replicas = (self._settings[key] for key in ("precision", "threads", "replicas"))
        folder = self._folder / precision
        self._encoder = ctranslate2.Encoder(
            str(folder), device="cpu", compute_type=precision, inter_threads=replicas, intra_threads=threads // replicas
        )
        self._callers = ThreadPoolExecutor(replicas)
        self._head = dict(np.load(folder / "head.npz"))
        self._tokenizer = AutoTokenizer.from_pretrained(self._settings["model"])
        return {
            "versions": versions("ctranslate2", "transformers"),
            "settings": f"{self._encoder.compute_type}, {replicas} x {threads // replicas} threads",
        }

    def logits(self, feed: Feed) -> Any:
        """The encoder's pooler output, times the head."""
        ids = ctranslate2.StorageView.from_array(feed["input_ids"].astype(np.int32))
        lengths = ctranslate2.StorageView.from_array(feed["attention_mask"].sum(axis=1).astype(np.int32))
        pooled = np.array(self._encoder.forward_batch(ids, lengths).pooler_output)
        return pooled @ self._head["weight"].T + self._head["bias"]

    def labels(self, texts: Sequence[str]) -> list[int]:
        """A batch for each replica at once: calls leave Python's lock while they compute."""
        found = np.empty(len(texts), np.int64)
        parts = list(batches(self._tokenizer, texts, self._settings["batch"]))
        for (rows, _), logits in zip(parts, self._callers.map(self.logits, (feed for _, feed in parts)), strict=True):
            found[rows] = logits.argmax(axis=-1)
        return found.tolist()


if __name__ == "__main__":
    serve_peer(CTranslate2)
