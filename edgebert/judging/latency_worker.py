"""The measured process: opens one artifact, then answers one line of calls with one line of timings.

Started by :mod:`edgebert.judging.latency`; stdin and stdout carry JSON lines and nothing else.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgebert.artifact import Artifact
from edgebert.errors import EdgebertError, translate
from edgebert.registry import target_named
from edgebert.runtimes.session import SessionConfig
from edgebert.serving.model import Model
from edgebert.serving.tokens import Text, TextTokenizer


def main() -> None:
    """Serve until stdin closes."""
    settings = json.loads(sys.argv[1])
    model: Model | None = None
    for line in sys.stdin:
        try:
            if model is None:
                model, answer = _open(settings)
            else:
                answer = _round(model, json.loads(line), settings["seq_len"])
        except Exception as error:
            known = translate(error)
            if known is None:
                raise
            answer = _refusal(known)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _open(settings: dict[str, Any]) -> tuple[Model, dict[str, Any]]:
    start = time.perf_counter()
    artifact = Artifact.open(Path(settings["path"]))
    session_config = SessionConfig(settings["threads"], timing_only=True)
    session = target_named(settings["target"]).resolve()(artifact, session_config)
    model = Model(artifact, session, TextTokenizer(artifact, settings["seq_len"]))
    model.answer(model.tokenize(["a first answer"]))
    cold = (time.perf_counter() - start) * 1e3
    return model, {"cold_start_ms": cold, "facts": model.facts(), "memory_bytes": _resident()}


def _texts(calls: list[list[Any]]) -> list[list[Text]]:
    return [[tuple(item) if isinstance(item, list) else item for item in call] for call in calls]


def _round(model: Model, asked: dict[str, Any], seq_len: int | None) -> dict[str, Any]:
    calls = _texts(asked["calls"])
    if seq_len:
        calls = [[_stretched(item, seq_len) for item in call] for call in calls]
    until = time.perf_counter() + asked["warm_ms"] / 1e3
    for texts in itertools.cycle(calls):
        model.answer(model.tokenize(texts))
        if time.perf_counter() > until:
            break
    return _time(model, calls)


def _time(model: Model, calls: Sequence[Sequence[Text]]) -> dict[str, Any]:
    tokenize, total = [], []
    for texts in calls:
        start = time.perf_counter_ns()
        tokens = model.tokenize(texts)
        middle = time.perf_counter_ns()
        model.answer(tokens)
        end = time.perf_counter_ns()
        tokenize.append((middle - start) / 1e6)
        total.append((end - start) / 1e6)
    return {"tokenize_ms": tokenize, "total_ms": total, "memory_bytes": _resident()}


def _stretched(item: Text, seq_len: int) -> str:
    """A text of at least ``seq_len`` tokens, which truncation makes exactly that many."""
    text = item if isinstance(item, str) else " ".join(item)
    # Every word is a token or more; an empty text has none to repeat.
    words = text.split() or ["a"]
    return " ".join((words * (seq_len // len(words) + 1))[:seq_len])


def _refusal(error: EdgebertError) -> dict[str, Any]:
    return {"error": [error.what, error.where, error.remedy], "exit_code": error.exit_code}


def _resident() -> int:
    """Resident memory of this process in bytes (0 where the system does not tell)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
