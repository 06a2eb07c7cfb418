"""Honest latency: every candidate in its own process, measured in turn, round after round.

Runtimes in one process spoil each other's timings, and a machine's speed drifts; so each candidate has a
worker process, all are given the same texts in each round, in a random order, beside a reference candidate
that tells how the machine's own speed varied. What rounds say is computed in ``rounds.py``, how calm the
machine was in ``conditions.py``.
"""

from __future__ import annotations

import dataclasses
import math
import random
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgebert.child import Child, ChildFailed
from edgebert.errors import EdgebertError, EnvironmentMissing, InputError
from edgebert.judging.conditions import Conditions, Watch
from edgebert.judging.rounds import Ratio, deal, paired_ratio, round_interval
from edgebert.progress import bar
from edgebert.runtimes.session import SessionConfig
from edgebert.serving.tokens import Text

# Below this many samples the 95th percentile rests on fewer than ten values.
SAMPLES_FOR_P95 = 200
# Thread pools of the candidate before may still spin for a moment.
_SETTLE_SECONDS = 0.02
# Uncounted calls at the start of every round: threads that slept wake on the wrong core, and the scheduler
# takes some ticks of 4 ms to spread them; caches belong to the candidate before.
_WARM_MS = 60.0
_LEAVE_OUT = "free memory, or leave this artifact out"
# Calls before the first round: enough to fill caches and to tell how slow a candidate is.
_WARM_UP_CALLS = 10


@dataclass(frozen=True)
class Contender:
    """What to measure: an artifact's folder on a target, and what to call it."""

    path: Path
    target: str

    @property
    def name(self) -> str:
        """What conditions and errors call it."""
        return f"{self.path.name} on {self.target}"


@dataclass(frozen=True)
class BenchConfig:
    """How to measure.

    ``samples`` calls are aimed at for each candidate, in ``rounds`` rounds; where the slowest candidate would
    need more than ``seconds`` for them, all make fewer, but not below what a p95 needs. ``seq_len`` None means
    the texts as they are. ``threads`` None means all that are allowed.
    """

    batch_size: int = 1
    seq_len: int | None = None
    threads: int | None = None
    samples: int = 400
    rounds: int = 20
    seconds: float = 30.0
    seed: int = 0


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call (``batch_size`` texts, text to answer) with 95 % intervals.

    ``p95`` and its interval are None below 200 samples. ``tokenize_p50`` is the part of the call spent on
    tokens; ``cold_start_ms`` runs from opening the artifact to the first answer; ``memory_bytes`` is the
    worker's resident memory after the last round. ``ratio`` is the median over rounds of this latency over
    the reference's in the same round (None where there was no reference), ``rounds`` the medians themselves,
    and ``run`` names the measurement: rounds of one run can be compared in pairs.
    """

    p50: float
    p50_low: float
    p50_high: float
    p95: float | None
    p95_low: float | None
    p95_high: float | None
    tokenize_p50: float
    texts_per_s: float
    samples: int
    batch_size: int
    seq_len: int | None
    threads: int
    cold_start_ms: float
    memory_bytes: int
    ratio: Ratio | None = None
    rounds: tuple[float, ...] = ()
    run: str = ""

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Latency:
        """From plain JSON types; unknown fields are ignored. Raises TypeError where one is missing."""
        known = {f.name: document[f.name] for f in dataclasses.fields(cls) if f.name in document}
        known["ratio"] = Ratio(**known["ratio"]) if known.get("ratio") else None
        known["rounds"] = tuple(known.get("rounds", ()))
        return cls(**known)

    def against(self, other: Latency) -> Ratio | None:
        """How many times the other's latency, by paired rounds; None where the two are of different runs."""
        if not self.run or self.run != other.run or len(self.rounds) != len(other.rounds):
            return None
        return paired_ratio(self.rounds, other.rounds)


@dataclass(frozen=True)
class Measurement:
    """The outcome for each contender, in order, how calm the machine was meanwhile, and the run's name."""

    results: tuple[Latency | EdgebertError, ...]
    conditions: Conditions | None
    run: str = ""

    @property
    def rank(self) -> tuple[int, bool, float]:
        """What makes one run of the same contenders better than another: fewer losses, calm, less drift."""
        lost = sum(not isinstance(result, Latency) for result in self.results)
        if self.conditions is None:
            return lost, True, math.inf
        return lost, not self.conditions.stable, self.conditions.drift


def measure(
    contenders: Sequence[Contender], texts: Sequence[Text], config: BenchConfig, reference: int = 0
) -> Measurement:
    """Measure contenders, each against the one at place ``reference`` (where that breaks, the first that works).

    All run on the same texts in the same rounds. A contender that breaks is an error in its place. Raises
    InputError without texts.
    """
    if not texts:
        raise InputError("no texts to measure on", "the data", "give data with at least one text")
    with ExitStack() as stack:
        workers = [_Worker(stack, contender, config) for contender in contenders]
        for worker in workers:
            worker.open()
        for worker in workers:
            worker.warm_up(_calls(texts, config, _WARM_UP_CALLS)[0])
        whole = [worker for worker in workers if worker.error is None]
        calls = _calls(texts, config, _affordable(whole, config))
        watch = Watch([worker.pid for worker in workers])
        _run_rounds(whole, calls, config)
        whole = [worker for worker in workers if worker.error is None]
        if not whole:
            return Measurement(tuple(worker.error for worker in workers if worker.error), None)
        yardstick = workers[reference] if workers[reference].error is None else whole[0]
        conditions = watch.conditions(yardstick.name, yardstick.medians)
    run = secrets.token_hex(8)
    results = tuple(worker.error or worker.latency(config, yardstick, run) for worker in workers)
    return Measurement(results, conditions, run)


def _affordable(workers: Sequence[_Worker], config: BenchConfig) -> int:
    """How many calls each makes: those asked for, fewer where the slowest would take too long.

    All make the same, or rounds would differ by their texts; and never so few that a p95 which was asked for
    is missing.
    """
    slowest = max((worker.call_ms for worker in workers), default=0.0)
    in_time = int(config.seconds * 1e3 / max(slowest, 1e-3))
    return min(config.samples, max(in_time, SAMPLES_FOR_P95))


def _calls(texts: Sequence[Text], config: BenchConfig, samples: int) -> list[list[list[Text]]]:
    """For each round its calls of ``batch_size`` texts, drawn without replacement for as long as texts last."""
    generator = random.Random(config.seed)
    pool: list[Text] = []
    calls = []
    for _ in range(samples):
        while len(pool) < config.batch_size:
            fresh = list(texts)
            generator.shuffle(fresh)
            pool += fresh
        calls.append(pool[: config.batch_size])
        pool = pool[config.batch_size :]
    return deal(calls, [sum(map(_length, call)) for call in calls], config.rounds, config.seed)


def _length(text: Text) -> int:
    return len(text) if isinstance(text, str) else sum(map(len, text))


def _run_rounds(workers: Sequence[_Worker], calls: Sequence[list[list[Text]]], config: BenchConfig) -> None:
    generator = random.Random(config.seed)
    for hand in bar(calls, "measuring"):
        order = list(workers)
        generator.shuffle(order)
        for worker in order:
            time.sleep(_SETTLE_SECONDS)
            worker.round(hand)


class _Worker:
    """One candidate's process, and what it has measured so far."""

    def __init__(self, stack: ExitStack, contender: Contender, config: BenchConfig) -> None:
        settings = {
            "path": contender.path, "target": contender.target,
            "threads": config.threads, "seq_len": config.seq_len, "warm_ms": _WARM_MS,
        }  # fmt: skip
        self._child = stack.enter_context(Child("edgebert.judging.latency_worker", settings))
        self._contender = contender
        self._totals: list[list[float]] = []
        self._tokenize: list[float] = []
        self.call_ms = 0.0
        self._cold_start_ms = 0.0
        self._memory_bytes = 0
        self.error: EdgebertError | None = None

    @property
    def name(self) -> str:
        return self._contender.name

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def medians(self) -> list[float]:
        """Of each round, in ms."""
        return [float(np.median(values)) for values in self._totals]

    def open(self) -> None:
        answer = self._ask("open")
        self._cold_start_ms = answer.get("cold_start_ms", 0.0)

    def warm_up(self, calls: list[list[Text]]) -> None:
        answer = self._ask("round", calls)
        # The first calls still fill caches: judge the speed by the later half.
        half = answer.get("total_ms", [0.0])[len(calls) // 2 :]
        self.call_ms = float(np.mean(half)) if half else 0.0

    def round(self, calls: list[list[Text]]) -> None:
        answer = self._ask("round", calls)
        if self.error is None:
            self._totals.append(answer["total_ms"])
            self._tokenize += answer["tokenize_ms"]
            self._memory_bytes = answer["memory_bytes"]

    def _ask(self, method: str, *arguments: object) -> dict[str, Any]:
        """The worker's answer; one that died or refused sets ``error``, and is not asked again."""
        if self.error is not None:
            return {}
        try:
            answer: dict[str, Any] = self._child.ask(method, *arguments)
            return answer
        except ChildFailed as failure:
            self.error = EnvironmentMissing(f"measuring failed: {failure}", str(self._contender.path), _LEAVE_OUT)
        except EdgebertError as error:
            self.error = error
        return {}

    def latency(self, config: BenchConfig, reference: _Worker, run: str) -> Latency:
        samples = np.concatenate([np.array(values) for values in self._totals])
        enough = len(samples) >= SAMPLES_FOR_P95
        p50_low, p50_high = round_interval(self._totals, 50)
        p95_low, p95_high = round_interval(self._totals, 95) if enough else (None, None)
        return Latency(
            p50=float(np.percentile(samples, 50)), p50_low=p50_low, p50_high=p50_high,
            p95=float(np.percentile(samples, 95)) if enough else None, p95_low=p95_low, p95_high=p95_high,
            tokenize_p50=float(np.median(self._tokenize)),
            texts_per_s=config.batch_size * 1e3 / float(samples.mean()),
            samples=len(samples), batch_size=config.batch_size, seq_len=config.seq_len,
            threads=SessionConfig(config.threads).thread_count,
            cold_start_ms=self._cold_start_ms, memory_bytes=self._memory_bytes,
            ratio=paired_ratio(self.medians, reference.medians), rounds=tuple(self.medians), run=run,
        )  # fmt: skip
