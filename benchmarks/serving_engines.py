"""The libraries that the serving benchmarks compare, each as one function from texts to answers.

Runs in environments that hold only one of them, on one and the same folder: an artifact of edgebert, which the others
read as it is. Each is called as its own documentation does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

Answer = Callable[[Sequence[str]], Sequence[Any]]


@dataclass(frozen=True)
class Engine:
    """One library. ``requirement`` is what a user installs to have it; ``open`` takes the folder."""

    requirement: str
    open: Callable[[str], Answer]


def _edgebert(folder: str) -> Answer:
    import edgebert

    model = edgebert.load(folder)
    return model.predict if model.artifact.manifest.labels else model.encode


def _fastembed(folder: str) -> Answer:
    from fastembed import TextEmbedding

    name = "sentence-transformers/all-MiniLM-L6-v2"
    model = TextEmbedding(name, specific_model_path=folder, providers=["CPUExecutionProvider"])
    return lambda texts: list(model.embed(texts))


def _sentence_transformers(folder: str) -> Answer:
    from sentence_transformers import SentenceTransformer

    options = {"provider": "CPUExecutionProvider", "file_name": "model.onnx"}
    model = SentenceTransformer(folder, backend="onnx", device="cpu", model_kwargs=options)
    return lambda texts: model.encode(list(texts), show_progress_bar=False)


def _optimum_vectors(folder: str) -> Answer:
    """Mean pooling by hand, as the model's card does it: Optimum has none of its own."""
    import numpy as np
    from optimum.onnxruntime import ORTModelForFeatureExtraction
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = ORTModelForFeatureExtraction.from_pretrained(folder, provider="CPUExecutionProvider")

    def encode(texts: Sequence[str]) -> Sequence[Any]:
        feed = tokenizer(list(texts), padding=True, truncation=True, max_length=512, return_tensors="np")
        mask = feed["attention_mask"][..., None]
        vectors = (model(**feed).last_hidden_state * mask).sum(1) / mask.sum(1)
        rows: Sequence[Any] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return rows

    return encode


def _optimum_labels(folder: str) -> Answer:
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer, pipeline

    model = ORTModelForSequenceClassification.from_pretrained(folder, provider="CPUExecutionProvider")
    ask = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))
    return lambda texts: list(ask(list(texts), truncation=True))


# By task, then by name.
ENGINES: Mapping[str, Mapping[str, Engine]] = {
    "embed": {
        "edgebert": Engine("edgebert[cpu]", _edgebert),
        "fastembed": Engine("fastembed", _fastembed),
        "sentence-transformers": Engine("sentence-transformers[onnx]", _sentence_transformers),
        "optimum": Engine("optimum-onnx[onnxruntime]", _optimum_vectors),
    },
    "predict": {
        "edgebert": Engine("edgebert[cpu]", _edgebert),
        "optimum": Engine("optimum-onnx[onnxruntime]", _optimum_labels),
    },
}


def installed(requirement: str) -> int:
    """How many packages a requirement installs, itself included, by what those that are installed here ask for."""
    from packaging.requirements import Requirement

    first = Requirement(requirement)
    found: set[str] = set()
    wanted = [(first.name, extra) for extra in ("", *first.extras)]
    seen: set[tuple[str, str]] = set()
    while wanted:
        name, extra = wanted.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        found.add(re.sub(r"[-_.]+", "-", name).lower())
        for line in metadata.requires(name) or ():
            inner = Requirement(line)
            if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                wanted += [(inner.name, each) for each in ("", *inner.extras)]
    return len(found)


def versions(names: Sequence[str]) -> str:
    """What is installed here of these."""
    found = []
    for name in names:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)
