"""What Olive's automatic optimization makes of the model, run by ONNX Runtime."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worker import Feed, Settings, labelled, once, serve_peer, versions

TYPES = {"tensor(int32)": "int32", "tensor(int64)": "int64"}


class Olive:
    """``precision`` int8: the passes are Olive's own choice for this precision and ONNX Runtime's CPU provider."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = Path(settings["folder"])

    def prepare(self) -> None:
        """Run the command."""
        once(self._folder / self._settings["precision"], self._optimize)

    def _optimize(self, folder: Path) -> None:
        arguments = {
            "--model_name_or_path": self._settings["model"], "--task": "text-classification", "--device": "cpu",
            "--provider": "CPUExecutionProvider", "--precision": self._settings["precision"],
            "--output_path": str(folder),
        }  # fmt: skip
        words = [word for pair in arguments.items() for word in pair]
        # Its cache, a copy of every step, is written to where it is started.
        subprocess.run([sys.executable, "-m", "olive", "auto-opt", *words], check=True, cwd=folder)
        shutil.rmtree(folder / ".olive-cache")

    def open(self) -> dict[str, str]:
        """Load the graph with the threads asked for."""
        import onnxruntime
        from transformers import AutoTokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._settings["threads"]
        graph = self._folder / self._settings["precision"] / "model.onnx"
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._inputs = {value.name: TYPES[value.type] for value in self._session.get_inputs()}
        self._tokenizer = AutoTokenizer.from_pretrained(self._settings["model"])
        return {
            "versions": versions("olive-ai", "onnxruntime", "transformers", "torch"),
            "settings": f"auto-opt --precision {self._settings['precision']}",
        }

    def logits(self, feed: Feed) -> Any:
        """One call, arrays to arrays, in the types that the graph takes."""
        arrays = {name: feed[name].astype(kind, copy=False) for name, kind in self._inputs.items()}
        return self._session.run(None, arrays)[0]

    def labels(self, texts: Sequence[str]) -> list[int]:
        """In length-sorted batches."""
        return labelled(self.logits, self._tokenizer, texts, self._settings["batch"])


if __name__ == "__main__":
    serve_peer(Olive)
