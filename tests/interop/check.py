"""Artifacts loaded as they are by Optimum's ORTModel classes and by sentence-transformers, and what they answer.

Runs in the environment of ``requirements.txt``, without edgebert. Token arrays and expected outputs are the
artifact's own golden vectors, texts and vectors those that ``make_artifacts.py`` left beside encoders.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optimum.onnxruntime import (
    ORTModelForFeatureExtraction,
    ORTModelForQuestionAnswering,
    ORTModelForSequenceClassification,
    ORTModelForTokenClassification,
)
from sentence_transformers import SentenceTransformer

# Shares of the largest magnitude. int8 is compared with the PyTorch reference for its golden vectors, and with
# edgebert's own answers to texts: there batches differ, and with them the ranges of activations.
EXACT, ROUNDED = 1e-4, 0.5
CLASSES = {
    "text-classification": ORTModelForSequenceClassification,
    "token-classification": ORTModelForTokenClassification,
    "question-answering": ORTModelForQuestionAnswering,
    "feature-extraction": ORTModelForFeatureExtraction,
}


def main() -> None:
    """Check every artifact below the folder given on the command line; leave with 1 where one differs."""
    folders = sorted(path.parent for path in Path(sys.argv[1]).glob("*/*/edgebert.json"))
    failed = [path for path in folders if not _check(path)]
    print(f"{len(folders)} artifacts, {len(failed)} with other answers")
    sys.exit(1 if failed or not folders else 0)


def _check(path: Path) -> bool:
    manifest = json.loads((path / "edgebert.json").read_text("utf-8"))
    tolerance = EXACT if manifest["precision"] == "fp32" else ROUNDED
    errors = {"optimum": _optimum(path, manifest)}
    if manifest["pooling"]:
        errors["sentence-transformers"] = _sentence_transformers(path)
    print(f"{path.parent.name}/{path.name}:", ", ".join(f"{name} {error:.1e}" for name, error in errors.items()))
    return max(errors.values()) <= tolerance


def _optimum(path: Path, manifest: dict[str, Any]) -> float:
    model = CLASSES[manifest["task"]].from_pretrained(path)
    names = [spec["name"] for spec in manifest["outputs"]]
    golden = np.load(path / "golden.npz")
    errors = []
    for number in range(sum(name.endswith(".output") for name in golden)):
        feed = {spec["name"]: torch.from_numpy(golden[f"{number}.{spec['name']}"]) for spec in manifest["inputs"]}
        found = model(**feed)
        outputs = np.stack([found[name].numpy() for name in names], axis=-1)
        errors.append(_error(outputs.ravel(), golden[f"{number}.output"]))
    return max(errors)


def _sentence_transformers(path: Path) -> float:
    options = {"provider": "CPUExecutionProvider", "file_name": "model.onnx"}
    model = SentenceTransformer(str(path), backend="onnx", device="cpu", model_kwargs=options)
    ours = np.load(f"{path}.npz")
    return _error(model.encode(ours["texts"].tolist()), ours["vectors"])


def _error(result: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    return float(np.abs(result - expected).max() / max(1.0, np.abs(expected).max()))


if __name__ == "__main__":
    main()
