"""The sweep folder: its lock, the inputs it is about, the journal of finished candidates, their scores.

``fit.json`` says what is being fitted, ``sweep.jsonl`` holds one line a finished candidate, ``scores/`` the
per-text results that ties are judged by, and the test texts that a report quotes. Lines are only ever appended;
a later line of a candidate counts.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgebert.choosing.candidate import Candidate
from edgebert.errors import EnvironmentMissing, InputError, UsageError
from edgebert.folders import JOURNAL
from edgebert.judging.metrics import Scores
from edgebert.serving.tokens import Text
from edgebert.stage import write_json, write_text
from edgebert.strict_json import parse_json
from edgebert.training.data import Row

log = logging.getLogger("edgebert")

_INPUTS, _LOCK = "fit.json", ".lock"
# The texts that latency is measured on, and those that the report shows.
_BENCH_TEXTS, _TEST_TEXTS = "texts.jsonl", "scores/test.jsonl"
# Characters of a test text that the folder keeps: what a report shows of it.
_SHOWN = 300
# How long to wait for another run's lock before giving up.
_LOCK_SECONDS = 3.0


class Journal:
    """A sweep folder's memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Hold the folder alone, by the file descriptor that is yielded and by whoever inherits it.

        Raises EnvironmentMissing while another run holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / _LOCK, "w") as file:
            if not _lock(file.fileno()):
                what = "another fit is at work in this folder"
                raise EnvironmentMissing(what, str(self.folder), "wait for it, or choose another with -o")
            yield file.fileno()

    def require_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Remember what is fitted, or raise UsageError naming what changed since the folder was begun."""
        path = self.folder / _INPUTS
        if not path.exists():
            write_json(path, {"inputs": dict(inputs)})
            return
        before, now = _flat(self.facts()["inputs"]), _flat(json.loads(json.dumps(inputs)))
        changed = [name for name in sorted(before | now) if before.get(name) != now.get(name)]
        if changed:
            first = f"{changed[0]} was {before.get(changed[0])}, is {now.get(changed[0])}"
            raise UsageError(
                f"{', '.join(changed)} changed since this fit was begun ({first})",
                str(self.folder),
                "choose another folder with -o, or remove this one",
            )

    def facts(self) -> dict[str, Any]:
        """What ``fit.json`` holds. Raises InputError where this is no sweep folder."""
        path = self.folder / _INPUTS
        if not path.is_file():
            raise InputError(
                "not a sweep folder", str(self.folder), f"no {_INPUTS} there; give what edgebert fit wrote"
            )
        return parse_json(path.read_bytes(), str(path))

    def remember_run(self, run: str, **facts: Any) -> None:
        """Keep what is known of a measurement: its conditions, its environment. Before its rows are added."""
        self.remember(runs={**self.facts().get("runs", {}), run: facts})

    def remember(self, **facts: Any) -> None:
        """Add facts to ``fit.json``."""
        write_json(self.folder / _INPUTS, {**self.facts(), **facts})

    def append(self, *candidates: Candidate) -> None:
        """Add finished candidates in one go, flushed to disk before this returns."""
        if not candidates:
            return
        path = self.folder / JOURNAL
        _cut_torn_line(path)
        with open(path, "ab") as file:
            file.write("".join(json.dumps(c.to_dict(), allow_nan=False) + "\n" for c in candidates).encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())

    def candidates(self, *, trained: bool) -> list[Candidate]:
        """Finished candidates, the latest line of each; a torn last line is dropped with a notice."""
        path = self.folder / JOURNAL
        found: dict[Any, Candidate] = {}
        content = path.read_bytes() if path.is_file() else b""
        for number, line in enumerate(content.splitlines(keepends=True), start=1):
            candidate = _candidate_of(line)
            if candidate is None:
                log.warning("%s: line %d is torn and was dropped", path, number)
            elif candidate.trained == trained:
                found[candidate.key] = candidate
        return list(found.values())

    def save_bench_texts(self, texts: Sequence[Text]) -> None:
        """Keep the texts that latency is measured on: another machine shall answer the same."""
        lines = "".join(json.dumps(text, ensure_ascii=False) + "\n" for text in texts)
        write_text(self.folder / _BENCH_TEXTS, lines)

    def bench_texts(self) -> list[Text]:
        """The texts that latency is measured on; empty where this is no sweep folder. Raises InputError."""
        path = self.folder / _BENCH_TEXTS
        if not path.is_file():
            return []
        try:
            # As bytes: text may hold other line separators than ours.
            found = [json.loads(line) for line in path.read_bytes().splitlines()]
        except ValueError as error:
            raise InputError(f"not texts ({error})", str(path), "run the same edgebert fit again") from None
        return [tuple(text) if isinstance(text, list) else text for text in found]

    def save_scores(self, candidate: Candidate, dev: Scores, test: Scores) -> None:
        """Keep the per-text results, for pairing candidates later."""
        path = self._scores(candidate)
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".tmp.npz")
        arrays: dict[str, Any] = {"metric": np.array(dev.metric), **_arrays("dev", dev), **_arrays("test", test)}
        np.savez_compressed(temporary, **arrays)
        os.replace(temporary, path)

    def scores(self, candidate: Candidate, part: str = "dev") -> Scores | None:
        """The per-text results of a candidate on ``dev`` or ``test``, or None where there are none."""
        path = self._scores(candidate)
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as arrays:
            found = Scores(str(arrays["metric"]), arrays[part])
            # Encoders answer with vectors, and older folders kept no answers.
            if f"{part}_predicted" not in arrays:
                return found
            return replace(
                found,
                labels=tuple(map(str, arrays[f"{part}_labels"])),
                predicted=arrays[f"{part}_predicted"],
                confidence=arrays[f"{part}_confidence"],
            )

    def save_texts(self, rows: Sequence[Row]) -> None:
        """Keep the test rows that a report quotes, long texts cut. Once: a folder is about one set of data."""
        path = self.folder / _TEST_TEXTS
        if path.exists():
            return
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".tmp")
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            for row in rows:
                shown = {"text": _cut(row.text), "text_b": row.text_b and _cut(row.text_b), "label": row.label}
                file.write(json.dumps(shown, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def texts(self) -> tuple[Row, ...] | None:
        """The test rows as :meth:`save_texts` kept them, or None where there are none."""
        path = self.folder / _TEST_TEXTS
        if not path.is_file():
            return None
        lines = path.read_bytes().split(b"\n")[:-1]
        return tuple(Row(**parse_json(line, f"{path}:{number}")) for number, line in enumerate(lines, start=1))

    def _scores(self, candidate: Candidate) -> Path:
        return self.folder / "scores" / f"l{candidate.layers}-{candidate.target}-{candidate.precision}.npz"


def _lock(descriptor: int) -> bool:
    """Whether the lock was had: what a killed run started may hold it for a moment longer."""
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.05)


def _flat(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs with groups of settings taken apart: ``training`` of ``lr`` is ``training lr``."""
    flat: dict[str, Any] = {}
    for name, value in inputs.items():
        flat |= {f"{name} {inner}": each for inner, each in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _candidate_of(line: bytes) -> Candidate | None:
    """The candidate of a line; None where the line is torn, its end included: the next append will cut it."""
    try:
        return Candidate.from_dict(json.loads(line)) if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        return None


def _arrays(part: str, scores: Scores) -> dict[str, npt.NDArray[Any]]:
    """A part's scores, a classifier's answers as arrays of their own beside its hits."""
    if scores.predicted is None or scores.confidence is None:
        return {part: scores.rows}
    return {
        part: scores.rows,
        f"{part}_labels": np.array(scores.labels),
        f"{part}_predicted": scores.predicted,
        f"{part}_confidence": scores.confidence,
    }


def _cut(text: str) -> str:
    """A text as far as a report shows it."""
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1].rstrip() + "…"


def _cut_torn_line(path: Path) -> None:
    """Remove a last line without its end, so that the next line does not grow onto it."""
    if not path.is_file():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
