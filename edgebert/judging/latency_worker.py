"""The measured process: opens one artifact, then answers calls with their timings.

Started by :mod:`edgebert.judging.latency` as a child of :mod:`edgebert.child`.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgebert.artifact import Artifact
from edgebert.child import serve
from edgebert.registry import target_named
from edgebert.runtimes.session import SessionConfig
from edgebert.serving.model import Model
from edgebert.serving.tokens import Overflow, Text, TextTokenizer
from edgebert.tasks import TASKS

Calls = Sequence[Sequence[Text]]


class _Measured:
    """One artifact on one target, as the settings say."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._seq_len: int | None = settings["seq_len"]
        self._warm_ms: float = settings["warm_ms"]
        start = time.perf_counter()
        artifact = Artifact.open(settings["path"])
        trust: bool = settings["trust_engine"]
        session_config = SessionConfig(settings["threads"], timing_only=True, trust_engine=trust)
        session = target_named(settings["target"]).resolve()(artifact, session_config)
        # So many tokens are one call of exactly as many, whatever the task does with longer texts.
        overflow: Overflow | None = "truncate" if self._seq_len else None
        self._model = Model(artifact, session, TextTokenizer(artifact, self._seq_len, overflow))
        self._asks = TASKS[artifact.manifest.task].asks
        self._model.finish(self._model.tokenize([self._stretched("a first answer", 1)]))
        self._cold_start_ms = (time.perf_counter() - start) * 1e3

    def open(self) -> dict[str, Any]:
        """What it took to the first answer."""
        return {"cold_start_ms": self._cold_start_ms}

    def round(self, calls: Calls) -> dict[str, Any]:
        """Milliseconds of each call, its tokenization apart, and the memory this process holds after them."""
        if self._seq_len:
            calls = [[self._stretched(item, self._seq_len) for item in call] for call in calls]
        self._warm_up(calls)
        before = self._model.facts()
        tokenize, total = [], []
        for texts in calls:
            start = time.perf_counter_ns()
            tokens = self._model.tokenize(texts)
            middle = time.perf_counter_ns()
            self._model.finish(tokens)
            end = time.perf_counter_ns()
            tokenize.append((middle - start) / 1e6)
            total.append((end - start) / 1e6)
        return {
            "tokenize_ms": tokenize, "total_ms": total, "memory_bytes": _resident(),
            **_on_device(before, self._model.facts(), len(calls)),
        }  # fmt: skip

    def _stretched(self, item: Text, seq_len: int) -> Text:
        """A text of at least ``seq_len`` tokens, which truncation makes exactly that many; or a question on it."""
        text = item if isinstance(item, str) else " ".join(item)
        # Every word is a token or more; an empty text has none to repeat.
        words = text.split() or ["a"]
        long = " ".join((words * (seq_len // len(words) + 1))[:seq_len])
        return ("a", long) if self._asks else long

    def _warm_up(self, calls: Calls) -> None:
        until = time.perf_counter() + self._warm_ms / 1e3
        for texts in itertools.cycle(calls):
            self._model.finish(self._model.tokenize(texts))
            if time.perf_counter() > until:
                return


def _on_device(before: dict[str, Any], after: dict[str, Any], calls: int) -> dict[str, Any]:
    """Milliseconds of a call by the GPU's clock, and the bytes held there; None and 0 where no GPU runs it."""
    if "device_ms" not in after:
        return {"device_ms": None, "device_bytes": 0}
    taken = after["device_ms"] - before["device_ms"]
    return {"device_ms": taken / max(1, calls), "device_bytes": after["device_bytes"]}


def _resident() -> int:
    """Resident memory of this process in bytes (0 where the system does not tell)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    serve(_Measured)
