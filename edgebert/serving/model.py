"""``edgebert.load``: an artifact as an object that answers. No torch, no transformers, no network."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgebert.artifact import Artifact, Pooling
from edgebert.errors import InputError, UsageError
from edgebert.files import private_folder
from edgebert.graph_guard import EXTERNAL, GRAPH
from edgebert.registry import Target, target_named
from edgebert.runtimes.session import Session, SessionConfig, closed
from edgebert.serving.tokens import Batch, Overflow, Text, TextTokenizer, Tokens, batches
from edgebert.tasks import TASKS

log = logging.getLogger("edgebert")

Float = npt.NDArray[np.float32]

# Tokens in one batch, padding included. See benchmarks/batch_tokens.py for where it comes from.
MAX_BATCH_TOKENS = 256


@dataclass(frozen=True)
class Prediction:
    """One text's answer: the winning label, its probability, every label's probability.

    ``truncated``: the text was longer than the model reads, and cut. ``chunks``: in how many windows it was read.
    """

    label: str
    score: float
    scores: dict[str, float]
    truncated: bool = False
    chunks: int = 1


def load(
    path: str | os.PathLike[str],
    target: str | None = None,
    threads: int | None = None,
    max_length: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    trust_engine: bool = False,
    overflow: Overflow = "truncate",
) -> Model:
    """Open an artifact for answering.

    ``target`` defaults to the one it was made for, ``threads`` to all that this process may use,
    ``max_length`` (tokens, specials included) to the model's own. ``cache_dir`` and ``trust_engine``
    concern targets that compile engines; the folder is made (0700) where there is none. ``overflow`` is
    what becomes of texts longer than ``max_length``: ``truncate`` cuts them, ``error`` raises ItemError,
    ``chunk`` reads them in consecutive windows, whose answers are averaged by their tokens.

    Raises InputError for a folder that is no sound artifact, EnvironmentMissing where the target cannot
    run here or others can write to ``cache_dir``.
    """
    if cache_dir is not None:
        private_folder(Path(cache_dir))
    artifact = Artifact.open(Path(path))
    chosen = _target(artifact, target)
    if (chosen.name == "torch") != (artifact.manifest.format == "torch"):
        raise UsageError(
            f"target {chosen.name} cannot run this {artifact.manifest.format} artifact",
            str(path),
            "leave target out",
        )
    # Whole or not at all: also a file that serving has no use for. The runtime reads the graph, once.
    artifact.check_files(but=(GRAPH, EXTERNAL))
    tokenizer = TextTokenizer(artifact, max_length, overflow)
    return Model(artifact, chosen.resolve()(artifact, SessionConfig(threads)), tokenizer)


def _target(artifact: Artifact, name: str | None) -> Target:
    try:
        return target_named(name or artifact.manifest.target)
    except UsageError as error:
        if name is not None:
            raise
        raise InputError(f"the manifest has an {error.what}", str(artifact.path), "name a target") from None


class Model:
    """An open artifact. Safe to call from several threads at once; close it, or use it as a context."""

    def __init__(self, artifact: Artifact, session: Session, tokenizer: TextTokenizer) -> None:
        self.artifact = artifact
        self.tokenizer = tokenizer
        self._session: Session | None = session
        self._task = TASKS[artifact.manifest.task]
        self._said_truncated = False

    def predict(self, texts: Sequence[Text]) -> list[Prediction]:
        """Label, score and scores of each text (or pair), in order."""
        self._require(has_labels=True)
        return self._predictions(self.tokenize(texts))

    def logits(self, texts: Sequence[Text]) -> Float:
        """float32 [n, labels]: the head's output before the softmax. Says once, in the log, that texts were cut."""
        self._require(has_labels=True)
        return self._logits(self._told(self.tokenize(texts)))

    def encode(self, texts: Sequence[Text]) -> Float:
        """float32 [n, hidden]: one vector a text, pooled and normalized as the encoder was trained.

        Says once, in the log, that texts were cut; :meth:`tokenize` says of each text whether it was.
        """
        self._require(has_labels=False)
        return self._vectors(self._told(self.tokenize(texts)))

    def tokenize(self, texts: Sequence[Text]) -> list[Tokens]:
        """The first half of an answer, apart, for those who time or reuse it, or ask what was ``truncated``."""
        if isinstance(texts, (str, bytes)):
            raise UsageError("one text where a list is expected", repr(texts[:20]), "pass [text]")
        if not isinstance(texts, Sized):
            raise UsageError(f"{type(texts).__name__} where a list is expected", "texts", "pass list(texts)")
        return self.tokenizer.encode(texts)

    def answer(self, tokens: list[Tokens]) -> list[Prediction] | Float:
        """The second half: predictions of a classifier, vectors of an encoder."""
        return self._predictions(tokens) if self._task.has_labels else self._vectors(tokens)

    def _predictions(self, tokens: list[Tokens]) -> list[Prediction]:
        names = self.artifact.manifest.labels
        probabilities = softmax(self._logits(tokens))
        return [_prediction(names, row, item) for row, item in zip(probabilities, tokens, strict=True)]

    def _vectors(self, tokens: list[Tokens]) -> Float:
        pooling = self.artifact.manifest.pooling or Pooling("mean", normalize=False)
        width = self.artifact.manifest.architecture.hidden
        vectors = self._batched(tokens, width, lambda out, feed: pool(out, feed["attention_mask"], pooling.mode))
        return normalized(vectors) if pooling.normalize else vectors

    def _told(self, tokens: list[Tokens]) -> list[Tokens]:
        """The same tokens, after saying once that some texts were cut: an array has no place to say it."""
        cut = sum(item.truncated for item in tokens)
        if cut and not self._said_truncated:
            self._said_truncated = True
            longest = self.tokenizer.max_length
            log.warning("%d of %d texts were cut to %d tokens (said once)", cut, len(tokens), longest)
        return tokens

    def run(self, feed: Batch) -> npt.NDArray[Any]:
        """The graph's one output for arrays that are already tokens."""
        # Another thread may close the model between two looks at it.
        session = self._session
        if session is None:
            raise closed(self.artifact)
        return session.run(feed)[self._task.output]

    def facts(self) -> dict[str, Any]:
        """What really runs here: artifact, runtime, version, provider, threads."""
        manifest = self.artifact.manifest
        session = self._session
        return {
            "artifact": str(self.artifact.path),
            "digest": self.artifact.digest,
            "precision": manifest.precision,
            **(session.facts() if session else {}),
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
        """Run length-sorted batches and put the rows back in the caller's order, one a text."""
        windows = [window for item in tokens for window in item.windows]
        result = np.empty((len(windows), width), dtype=np.float32)
        for rows in self._groups(windows):
            feed = self.tokenizer.collate([windows[i] for i in rows])
            found = finish(self.run(feed), feed)
            if found.shape != (len(rows), width):
                what = f"the graph answers {found.shape} where {(len(rows), width)} is declared"
                raise InputError(what, str(self.artifact.path), "export the artifact again")
            result[rows] = found
        return result if len(windows) == len(tokens) else averaged(result, tokens, self.tokenizer.specials)

    def _groups(self, windows: Sequence[Tokens]) -> Iterator[Sequence[int]]:
        """Indices of the windows of each call."""
        fixed = self.artifact.manifest.fixed
        if fixed is None:
            return batches(windows, MAX_BATCH_TOKENS)
        # Every call costs the same, so that only full ones are worth it.
        return (range(len(windows))[start : start + fixed[0]] for start in range(0, len(windows), fixed[0]))

    def _require(self, *, has_labels: bool) -> None:
        if self._task.has_labels != has_labels:
            wanted = "a classifier" if has_labels else "an encoder"
            raise UsageError(
                f"this is not {wanted}", f"{self.artifact.path} is for {self._task.name}", f"load {wanted}"
            )


def _prediction(names: tuple[str, ...], row: Float, item: Tokens) -> Prediction:
    best = int(row.argmax())
    scores = dict(zip(names, map(float, row), strict=True))
    return Prediction(names[best], float(row[best]), scores, item.truncated, len(item.windows))


def averaged(rows: Float, tokens: Sequence[Tokens], specials: int) -> Float:
    """Rows [windows, d] to rows [texts, d]: each text's windows averaged by their tokens, special ones left out."""
    counts = [len(item.windows) for item in tokens]
    weights = np.array([max(1, len(window) - specials) for item in tokens for window in item.windows], np.float32)
    starts = np.cumsum([0, *counts[:-1]])
    sums = np.add.reduceat(rows * weights[:, None], starts, axis=0)
    result: Float = (sums / np.add.reduceat(weights, starts)[:, None]).astype(np.float32)
    return result


def softmax(logits: Float) -> Float:
    """Probabilities along the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    result: Float = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


def pool(hidden: Float, mask: npt.NDArray[np.int64], mode: str) -> Float:
    """Token vectors [n, sequence, hidden] to text vectors [n, hidden], padding left out.

    As sentence-transformers' Pooling module does (modes cls, mean, max).
    """
    visible = mask[:, :, None].astype(np.float32)
    if mode == "cls":
        vectors = hidden[:, 0]
    elif mode == "max":
        vectors = np.where(visible > 0, hidden, -np.inf).max(axis=1)
    else:
        vectors = (hidden * visible).sum(axis=1) / np.maximum(visible.sum(axis=1), 1e-9)
    result: Float = vectors.astype(np.float32)
    return result


def normalized(vectors: Float) -> Float:
    """Vectors [n, d] of length one, as sentence-transformers' Normalize module makes them."""
    result: Float = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return result
