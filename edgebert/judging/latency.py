"""Honest latency: every candidate in its own process, measured in turn, round after round.

Runtimes in one process spoil each other's timings, and a machine's speed drifts; so each candidate has a
worker process, all are given the same texts in each round, in a random order, and intervals come from a
bootstrap over rounds, since samples of one round share its luck.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgebert.errors import EdgebertError, EnvironmentMissing, InputError
from edgebert.progress import bar
from edgebert.runtimes.session import SessionConfig
from edgebert.serving.tokens import Text

Float = npt.NDArray[np.float64]

# Below this many samples the 95th percentile rests on fewer than ten values.
SAMPLES_FOR_P95 = 200
_RESAMPLES = 1000
# Thread pools of the candidate before may still spin for a moment.
_SETTLE_SECONDS = 0.02
# Uncounted calls at the start of every round: threads that slept wake on the wrong core, and the scheduler
# takes some ticks of 4 ms to spread them; caches belong to the candidate before.
_WARM_MS = 60.0


@dataclass(frozen=True)
class Contender:
    """What to measure: an artifact's folder on a target."""

    path: Path
    target: str


@dataclass(frozen=True)
class BenchConfig:
    """How to measure.

    ``samples`` calls are aimed at for each candidate, in ``rounds`` rounds; a candidate whose calls are
    slow gets fewer, so that it takes about ``seconds``. ``seq_len`` None means the texts as they are.
    ``threads`` None means all that are allowed.
    """

    batch_size: int = 1
    seq_len: int | None = None
    threads: int | None = None
    samples: int = 400
    rounds: int = 10
    seconds: float = 30.0
    seed: int = 0


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call (``batch_size`` texts, text to answer) with 95 % intervals.

    ``p95`` and its interval are None below 200 samples. ``tokenize_p50`` is the part of the call spent on
    tokens; ``cold_start_ms`` runs from opening the artifact to the first answer; ``memory_bytes`` is the
    worker's resident memory after the last round.
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


def measure(
    contenders: Sequence[Contender], texts: Sequence[Text], config: BenchConfig
) -> list[Latency | EdgebertError]:
    """Latency of each contender, in order, or the error that kept it from being measured.

    All run on the same texts in the same rounds. Raises InputError without texts.
    """
    if not texts:
        raise InputError("no texts to measure on", "the data", "give data with at least one text")
    with ExitStack() as stack:
        workers = [_start(stack, contender, config) for contender in contenders]
        alive = [worker for worker in workers if isinstance(worker, _Worker)]
        for worker in alive:
            worker.open()
        calls = _calls(texts, config)
        for worker in alive:
            worker.warm_up(calls[: max(5, config.rounds)])
        _run_rounds([worker for worker in alive if worker.error is None], calls, config)
        return [_outcome(worker, config) for worker in workers]


def _calls(texts: Sequence[Text], config: BenchConfig) -> list[list[Text]]:
    """``samples`` calls of ``batch_size`` texts, drawn without replacement for as long as texts last."""
    generator = random.Random(config.seed)
    pool: list[Text] = []
    calls = []
    for _ in range(config.samples):
        while len(pool) < config.batch_size:
            fresh = list(texts)
            generator.shuffle(fresh)
            pool += fresh
        calls.append(pool[: config.batch_size])
        pool = pool[config.batch_size :]
    return calls


def _run_rounds(workers: list[_Worker], calls: list[list[Text]], config: BenchConfig) -> None:
    generator = random.Random(config.seed)
    size = -(-len(calls) // config.rounds)
    for start in bar(range(0, len(calls), size), "measuring"):
        order = list(workers)
        generator.shuffle(order)
        for worker in order:
            time.sleep(_SETTLE_SECONDS)
            worker.round(calls[start : start + size], config)


def _outcome(worker: _Worker | EdgebertError, config: BenchConfig) -> Latency | EdgebertError:
    if isinstance(worker, EdgebertError):
        return worker
    return worker.error or worker.latency(config)


@contextmanager
def _running(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


def _start(stack: ExitStack, contender: Contender, config: BenchConfig) -> _Worker | EdgebertError:
    command = [sys.executable, "-m", "edgebert.judging.latency_worker"]
    settings = {
        "path": str(contender.path),
        "target": contender.target,
        "threads": config.threads,
        "seq_len": config.seq_len,
    }
    process = subprocess.Popen(
        [*command, json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        # Ctrl-C in a terminal goes to the whole group: we end the workers, they need not complain too.
        process_group=0,
    )
    stack.enter_context(_running(process))
    return _Worker(process, contender)


class _Worker:
    """One candidate's process, and what it has measured so far."""

    def __init__(self, process: subprocess.Popen[str], contender: Contender) -> None:
        self._process, self._contender = process, contender
        self._totals: list[list[float]] = []
        self._tokenize: list[float] = []
        self._call_ms = 0.0
        self._facts: dict[str, Any] = {}
        self.error: EdgebertError | None = None

    def open(self) -> None:
        self._facts = self._ask([])

    def warm_up(self, calls: list[list[Text]]) -> None:
        answer = self._ask(calls)
        # The first calls still fill caches: judge the speed by the later half.
        half = answer.get("total_ms", [0.0])[len(calls) // 2 :]
        self._call_ms = float(np.median(half)) if half else 0.0

    def round(self, calls: list[list[Text]], config: BenchConfig) -> None:
        if self.error is not None:
            return
        affordable = int(config.seconds / config.rounds * 1e3 / max(self._call_ms, 1e-3))
        answer = self._ask(calls[: max(2, affordable)])
        if self.error is None:
            self._totals.append(answer["total_ms"])
            self._tokenize += answer["tokenize_ms"]
            self._facts["memory_bytes"] = answer["memory_bytes"]

    def _ask(self, calls: list[list[Text]]) -> dict[str, Any]:
        """One line there, one line back; a worker that died or refused sets ``error``."""
        if self.error is not None:
            return {}
        line = ""
        try:
            assert self._process.stdin
            assert self._process.stdout
            self._process.stdin.write(json.dumps({"calls": calls, "warm_ms": _WARM_MS}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            pass
        answer: dict[str, Any] = json.loads(line) if line else {}
        if "error" in answer:
            self.error = (
                InputError(*answer["error"]) if answer["exit_code"] == 3 else EnvironmentMissing(*answer["error"])
            )
        elif not answer:
            code = self._process.wait()
            self.error = EnvironmentMissing(
                f"the measuring process ended with {code}",
                str(self._contender.path),
                "see above; it may lack memory",
            )
        return answer

    def latency(self, config: BenchConfig) -> Latency:
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
            cold_start_ms=float(self._facts["cold_start_ms"]), memory_bytes=int(self._facts["memory_bytes"]),
        )  # fmt: skip


def round_interval(rounds: Sequence[Sequence[float]], percentile: float, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of a percentile: rounds are resampled, then samples within each."""
    generator = np.random.default_rng(seed)
    arrays = [np.asarray(values, dtype=np.float64) for values in rounds]
    values = []
    for _ in range(_RESAMPLES):
        chosen = generator.integers(0, len(arrays), size=len(arrays))
        pooled = [generator.choice(arrays[i], size=len(arrays[i])) for i in chosen]
        values.append(np.percentile(np.concatenate(pooled), percentile))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class DepthLine:
    """Latency over depth as ``a + b * layers`` (ms), with the largest relative residual."""

    a: float
    b: float
    worst: float


def depth_line(layers: Sequence[int], p50: Sequence[float]) -> DepthLine | None:
    """Least squares over at least three depths; None for fewer, where a line says nothing."""
    if len(set(layers)) < 3:
        return None
    b, a = np.polyfit(np.asarray(layers, dtype=np.float64), np.asarray(p50), 1)
    fitted = a + b * np.asarray(layers)
    return DepthLine(float(a), float(b), float(np.max(np.abs(fitted - p50) / p50)))
