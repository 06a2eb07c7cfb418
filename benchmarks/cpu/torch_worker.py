"""PyTorch itself: eager or compiled, fp32 or bf16. Runs in the project's environment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch._inductor import config as inductor
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from worker import Feed, Settings, labelled, serve_peer, versions

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Torch:
    """``precision`` fp32 or bf16; ``compiled`` by torch.compile with frozen weights, which packs them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def prepare(self) -> None:
        """Nothing: PyTorch reads the checkpoint."""

    def open(self) -> dict[str, str]:
        """Load the weights in the precision asked for."""
        torch.set_num_threads(self._settings["threads"])
        torch.set_num_interop_threads(1)
        dtype, compiled = DTYPES[self._settings["precision"]], self._settings["compiled"]
        model = AutoModelForSequenceClassification.from_pretrained(self._settings["model"], dtype=dtype).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(self._settings["model"])
        # Compilers at work in processes of their own would stand beside whoever has a turn.
        inductor.freezing, inductor.compile_threads = True, 1
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = self._settings["folder"]
        self._model = torch.compile(model, dynamic="texts" in self._settings["work"]) if compiled else model
        return {
            "versions": versions("torch", "transformers"),
            "settings": f"{'torch.compile, frozen weights' if compiled else 'eager'}, {self._settings['precision']}",
        }

    def logits(self, feed: Feed) -> Any:
        """From tensors to a float32 tensor."""
        # Not inference_mode: compiled graphs are made anew for its tensors, and freezing asks for none of them.
        with torch.no_grad():
            return self._model(**{name: torch.from_numpy(array) for name, array in feed.items()}).logits.float()

    def labels(self, texts: Sequence[str]) -> list[int]:
        """In length-sorted batches."""
        return labelled(self.logits, self._tokenizer, texts, self._settings["batch"])


if __name__ == "__main__":
    serve_peer(Torch)
