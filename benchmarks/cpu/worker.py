"""What the workers of the CPU benchmark share: the line protocol, the clock, batches by length.

Runs in the environment of every peer: the standard library and numpy, nothing else. One JSON object a line comes on
stdin, one answer a line goes out:

    {"do": "prepare", "settings": {...}}   convert the model, once        {}
    {"do": "open", "settings": {...}}      load it                        {"facts": {...}, "logits": [[...]]}
    {"do": "round"}                        compute for a while            {"ms": [...]}, or {"seconds", "labels"}

and where something goes wrong {"error": "..."}.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Feed = dict[str, np.ndarray[Any, Any]]
Settings = Mapping[str, Any]

# Caches and clocks are cold after a rest, and threads that slept wake on the wrong core.
WARM_SECONDS = 0.3
WARM_TEXTS = 64
FEWEST_CALLS = 5
# The models of this benchmark read no more.
MAX_TOKENS = 512


class Worker(Protocol):
    """What answers the lines; made of the settings."""

    def prepare(self) -> None:
        """Convert the model, where that was not done yet."""

    def open(self) -> dict[str, Any]:
        """Load what was converted."""

    def round(self) -> dict[str, Any]:
        """Compute for a while."""


class Peer(Protocol):
    """One library on one model, made of the settings. What it needs of its library it may import when asked."""

    def prepare(self) -> None:
        """Convert the model, where that was not done yet."""

    def open(self) -> dict[str, str]:
        """Load what was converted. Returns ``versions`` and ``settings``, in words."""

    def logits(self, feed: Feed) -> Any:
        """Logits [batch, labels] of token arrays [batch, sequence]."""

    def labels(self, texts: Sequence[str]) -> list[int]:
        """The number of each text's label, tokenization included."""


def serve(make: Callable[[Settings], Worker]) -> None:
    """Answer the lines on stdin until they end."""
    # Whatever a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker: Worker | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            # Made by the first line, whichever it is.
            worker = worker or make(request["settings"])
            answer = getattr(worker, request["do"])() or {}
        except Exception as error:  # noqa: BLE001, whatever a library raises becomes a row that says why
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        print(json.dumps(answer), file=answers, flush=True)


def serve_peer(make: Callable[[Settings], Peer]) -> None:
    """Answer the lines with a peer on the work of the settings."""
    serve(lambda settings: _Measured(make(settings), settings["work"]))


class _Measured:
    """A peer and its work: ``{"batch", "length", "vocab", "seconds"}``, or ``{"texts": file}``."""

    def __init__(self, peer: Peer, work: Settings) -> None:
        self._peer, self._work = peer, work
        self._texts: list[str] = read_texts(work["texts"]) if "texts" in work else []
        self._feed = {} if self._texts else token_arrays(work["batch"], work["length"], work["vocab"])

    def prepare(self) -> None:
        self._peer.prepare()

    def open(self) -> dict[str, Any]:
        facts = self._peer.open()
        if self._texts:
            return {"facts": facts}
        return {"facts": facts, "logits": np.asarray(self._peer.logits(self._feed), np.float64).tolist()}

    def round(self) -> dict[str, Any]:
        if not self._texts:
            return {"ms": _timed(lambda: self._peer.logits(self._feed), self._work["seconds"])}
        self._peer.labels(self._texts[:WARM_TEXTS])
        start = time.perf_counter()
        labels = self._peer.labels(self._texts)
        return {"seconds": time.perf_counter() - start, "labels": labels}


def _timed(call: Callable[[], Any], seconds: float) -> list[float]:
    """Milliseconds of each call that fits into ``seconds``, at least five; those of the warm-up do not count."""
    until = time.perf_counter() + WARM_SECONDS
    while time.perf_counter() < until:
        call()
    found: list[float] = []
    until = time.perf_counter() + seconds
    while len(found) < FEWEST_CALLS or time.perf_counter() < until:
        start = time.perf_counter()
        call()
        found.append((time.perf_counter() - start) * 1e3)
    return found


def token_arrays(batch: int, length: int, vocab: int) -> Feed:
    """The same token arrays in every environment, int64 [batch, length]: no padding, one type."""
    # The first are special or unused.
    ids = np.random.default_rng(0).integers(vocab // 20, vocab, (batch, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def read_texts(path: str) -> list[str]:
    """A JSON list of texts."""
    found: list[str] = json.loads(Path(path).read_text("utf-8"))
    return found


def batches(tokenizer: Any, texts: Sequence[str], size: int) -> Iterator[tuple[list[int], Feed]]:
    """Length-sorted batches of a Hugging Face tokenizer: which texts they hold, and their padded arrays."""
    ids = tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)["input_ids"]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        yield rows, padded([ids[row] for row in rows])


def padded(ids: Sequence[Sequence[int]]) -> Feed:
    """Token ids of single texts as arrays [batch, longest]; BERT's padding token is number 0."""
    arrays = np.zeros((len(ids), max(map(len, ids))), np.int64)
    mask = np.zeros_like(arrays)
    for row, tokens in enumerate(ids):
        arrays[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    return {"input_ids": arrays, "attention_mask": mask, "token_type_ids": np.zeros_like(arrays)}


def labelled(logits_of: Callable[[Feed], Any], tokenizer: Any, texts: Sequence[str], size: int) -> list[int]:
    """The likeliest label of each text, in length-sorted batches, for libraries that have no such loop themselves."""
    found = np.empty(len(texts), np.int64)
    for rows, feed in batches(tokenizer, texts, size):
        found[rows] = np.asarray(logits_of(feed)).argmax(axis=-1)
    return found.tolist()


def once(folder: Path, make: Callable[[Path], object]) -> Path:
    """The folder that ``make`` fills, filled before or now; whole or not at all."""
    if not folder.exists():
        begun = folder.with_name(f"{folder.name}.begun")
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir(parents=True)
        make(begun)
        begun.rename(folder)
    return folder


def versions(*packages: str) -> str:
    """Names and versions of what is installed here."""
    return ", ".join(f"{name} {version(name)}" for name in packages)
