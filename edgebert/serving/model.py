"""``edgebert.load``: an artifact as an object that answers. No torch, no transformers, no network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgebert.artifact import Artifact, Pooling
from edgebert.errors import InputError, UsageError
from edgebert.registry import target_named
from edgebert.runtimes.session import Session, SessionConfig
from edgebert.serving.tokens import Batch, Text, TextTokenizer, Tokens, batches
from edgebert.tasks import TASKS

Float = npt.NDArray[np.float32]

# Tokens in one batch, padding included. See benchmarks/batch_tokens.py for where it comes from.
MAX_BATCH_TOKENS = 256


@dataclass(frozen=True)
class Prediction:
    """One text's answer: the winning label, its probability, every label's probability."""

    label: str
    score: float
    scores: dict[str, float]
    truncated: bool = False


def load(
    path: str | os.PathLike[str],
    target: str | None = None,
    threads: int | None = None,
    max_length: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    trust_engine: bool = False,
) -> Model:
    """Open an artifact for answering.

    ``target`` defaults to the one it was made for, ``threads`` to all that this process may use,
    ``max_length`` (tokens, specials included) to the model's own. ``cache_dir`` and ``trust_engine``
    concern targets that compile engines. Raises InputError for a folder that is no sound artifact,
    EnvironmentMissing where the target cannot run here.
    """
    artifact = Artifact.open(Path(path))
    chosen = target_named(target or artifact.manifest.target)
    if (chosen.name == "torch") != (artifact.manifest.format == "torch"):
        raise UsageError(
            f"target {chosen.name} cannot run this {artifact.manifest.format} artifact",
            str(path),
            "leave target out",
        )
    session = chosen.resolve()(artifact, SessionConfig(threads))
    return Model(artifact, session, TextTokenizer(artifact, max_length))


class Model:
    """An open artifact. Safe to call from several threads at once; close it, or use it as a context."""

    def __init__(self, artifact: Artifact, session: Session, tokenizer: TextTokenizer) -> None:
        self.artifact = artifact
        self.tokenizer = tokenizer
        self._session: Session | None = session
        self._task = TASKS[artifact.manifest.task]

    def predict(self, texts: Sequence[Text]) -> list[Prediction]:
        """Label, score and scores of each text (or pair), in order."""
        self._require(has_labels=True)
        return self._predictions(self.tokenize(texts))

    def logits(self, texts: Sequence[Text]) -> Float:
        """float32 [n, labels]: the head's output before the softmax."""
        self._require(has_labels=True)
        return self._logits(self.tokenize(texts))

    def encode(self, texts: Sequence[Text]) -> Float:
        """float32 [n, hidden]: one vector a text, pooled and normalized as the encoder was trained."""
        self._require(has_labels=False)
        return self._vectors(self.tokenize(texts))

    def tokenize(self, texts: Sequence[Text]) -> list[Tokens]:
        """The first half of an answer, apart, for those who time or reuse it."""
        if isinstance(texts, (str, bytes)):
            raise UsageError("one text where a list is expected", repr(texts[:20]), "pass [text]")
        return self.tokenizer.encode(texts)

    def answer(self, tokens: list[Tokens]) -> list[Prediction] | Float:
        """The second half: predictions of a classifier, vectors of an encoder."""
        return self._predictions(tokens) if self._task.has_labels else self._vectors(tokens)

    def _predictions(self, tokens: list[Tokens]) -> list[Prediction]:
        names = self.artifact.manifest.labels
        probabilities = softmax(self._logits(tokens))
        return [_prediction(names, row, item.truncated) for row, item in zip(probabilities, tokens, strict=True)]

    def _vectors(self, tokens: list[Tokens]) -> Float:
        pooling = self.artifact.manifest.pooling or Pooling("mean", normalize=False)
        width = self.artifact.manifest.architecture.hidden
        return self._batched(tokens, width, lambda out, feed: pool(out, feed["attention_mask"], pooling))

    def run(self, feed: Batch) -> npt.NDArray[Any]:
        """The graph's one output for arrays that are already tokens."""
        if self._session is None:
            raise InputError("the model is closed", str(self.artifact.path), "load it again")
        return self._session.run(feed)[self._task.output]

    def facts(self) -> dict[str, Any]:
        """What really runs here: artifact, runtime, version, provider, threads."""
        manifest = self.artifact.manifest
        session = self._session.facts() if self._session else {}
        return {
            "artifact": str(self.artifact.path),
            "digest": self.artifact.digest,
            "precision": manifest.precision,
            **session,
        }

    def close(self) -> None:
        """Release the runtime. A closed model answers with InputError; closing twice does nothing."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _logits(self, tokens: list[Tokens]) -> Float:
        return self._batched(tokens, len(self.artifact.manifest.labels), lambda out, feed: out)

    def _batched(self, tokens: list[Tokens], width: int, finish: Any) -> Float:
        """Run length-sorted batches and put the rows back in the caller's order."""
        result = np.empty((len(tokens), width), dtype=np.float32)
        for rows in batches(tokens, MAX_BATCH_TOKENS):
            feed = self.tokenizer.collate([tokens[i] for i in rows])
            result[rows] = finish(self.run(feed), feed)
        return result

    def _require(self, *, has_labels: bool) -> None:
        if self._task.has_labels != has_labels:
            wanted = "a classifier" if has_labels else "an encoder"
            raise UsageError(
                f"this is not {wanted}", f"{self.artifact.path} is for {self._task.name}", f"load {wanted}"
            )


def _prediction(names: tuple[str, ...], row: Float, truncated: bool) -> Prediction:
    best = int(row.argmax())
    scores = dict(zip(names, map(float, row), strict=True))
    return Prediction(names[best], float(row[best]), scores, truncated)


def softmax(logits: Float) -> Float:
    """Probabilities along the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    result: Float = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


def pool(hidden: Float, mask: npt.NDArray[np.int64], pooling: Pooling) -> Float:
    """Token vectors [n, sequence, hidden] to text vectors [n, hidden], padding left out.

    As sentence-transformers' Pooling and Normalize modules do (modes cls, mean, max).
    """
    visible = mask[:, :, None].astype(np.float32)
    if pooling.mode == "cls":
        vectors = hidden[:, 0]
    elif pooling.mode == "max":
        vectors = np.where(visible > 0, hidden, -np.inf).max(axis=1)
    else:
        vectors = (hidden * visible).sum(axis=1) / np.maximum(visible.sum(axis=1), 1e-9)
    if pooling.normalize:
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    result: Float = vectors.astype(np.float32)
    return result
