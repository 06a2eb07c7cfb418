"""Honest latency: every candidate in processes of its own, measured in turn, round after round.

Runtimes in one process spoil each other's timings, and a machine's speed drifts; so each candidate has a
process, all are given the same texts in each round, in a random order, beside a reference candidate that tells
how the machine's own speed varied. A process has luck that lasts as long as it does (where its memory lies), so
the rounds are spread over several sittings, each with fresh processes. What rounds say is computed in
``rounds.py``, how calm the machine was in ``conditions.py``.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from edgebert.child import Child, ChildFailed
from edgebert.errors import EdgebertError, EnvironmentMissing, InputError
from edgebert.judging.conditions import Watch
from edgebert.judging.latency import SAMPLES_FOR_P95, BenchConfig, Contender, Latency, Measurement
from edgebert.judging.rounds import FEWEST_ROUNDS, deal, enough_together, paired_ratio, repeat_interval, together
from edgebert.progress import bar
from edgebert.runtimes.session import SessionConfig
from edgebert.serving.tokens import Text

# Thread pools of the candidate before may still spin for a moment.
_SETTLE_SECONDS = 0.02
# Uncounted calls at the start of every round: threads that slept wake on the wrong core, and the scheduler
# takes some ticks of 4 ms to spread them; caches belong to the candidate before.
_WARM_MS = 60.0
_LATENCY_WORKER, _SHARING_WORKER = "edgebert.judging.latency_worker", "edgebert.judging.sharing_worker"
# How many times the rounds asked for are run at most where sharing work among threads lost in nearly all of them.
_MOST_TIMES = 2
_ROUNDS_OF_A_SITTING = 2
# What the slowest candidate's turn should last at least, and how many calls that may add up to.
_TURN_MS = 15.0
_MOST_UNASKED = 2000
_LEAVE_OUT = "free memory, or leave this artifact out"
_AGAIN = "measure again, with --threads 1 if that fails too"
# Calls before the first round: enough to fill caches and to tell how slow a candidate is.
_WARM_UP_CALLS = 10


def measure(
    contenders: Sequence[Contender], texts: Sequence[Text], config: BenchConfig, reference: int = 0
) -> Measurement:
    """Measure contenders, each against the one at place ``reference`` (where that breaks, the first that works).

    All run on the same texts in the same rounds. A contender that breaks is an error in its place. Raises
    InputError without texts.
    """
    if not texts:
        raise InputError("no texts to measure on", "the data", "give data with at least one text")
    run = _Run([_Entrant(contender, config) for contender in contenders], texts, config)
    run.measure()
    whole = run.whole
    if not whole:
        return Measurement(tuple(entrant.error for entrant in run.entrants if entrant.error), None)
    yardstick = run.entrants[reference] if run.entrants[reference].error is None else whole[0]
    conditions = run.watch.conditions(yardstick.name, yardstick.medians, run.sharing)
    common = _Common(secrets.token_hex(8), yardstick, together(run.sharing), max(e.tail for e in whole))
    results = tuple(entrant.error or entrant.latency(common) for entrant in run.entrants)
    return Measurement(results, conditions, common.run)


@dataclass(frozen=True)
class _Common:
    """What all results of a run share: its name, the reference, the rounds that ratios are made of, the tail.

    ``tail`` is how many times its p95 a candidate's may be in a repeat: the most that any of them showed. What
    lengthens a tail (another machine on the same core, an interrupt) hits whoever's turn it is, and a candidate
    that was spared this time has no better claim to be spared the next.
    """

    run: str
    yardstick: _Entrant
    rounds: Sequence[int]
    tail: float


class _Run:
    """One measurement while it is made: rounds in some sittings, each sitting with fresh processes."""

    def __init__(self, entrants: Sequence[_Entrant], texts: Sequence[Text], config: BenchConfig) -> None:
        self.entrants = entrants
        self.watch = Watch()
        # Of each round what it cost to share work among threads, before or after it, the worse.
        self.sharing: list[float] = []
        self._texts, self._config = texts, config
        self._order = random.Random(config.seed)

    @property
    def whole(self) -> list[_Entrant]:
        """Those that have not broken."""
        return [entrant for entrant in self.entrants if entrant.error is None]

    def measure(self) -> None:
        rounds = min(self._config.rounds, self._config.samples)
        # Too few calls for a p95 do not deserve several processes.
        several = self._config.samples >= SAMPLES_FOR_P95
        # Where fewer rounds are asked for than are to be compared by, more are not waited for.
        most = _MOST_TIMES * rounds if several and rounds >= FEWEST_ROUNDS else rounds
        with ExitStack() as stack, ExitStack() as sitting:
            probe = _Probe(stack, self._config)
            before = probe.cost()
            for number in bar(self._numbers(rounds, most), "measuring", rounds):
                if number % (_ROUNDS_OF_A_SITTING if several else rounds) == 0:
                    sitting.close()
                    self._start(sitting)
                if not self.whole:
                    return
                with self.watch.over([*probe.pids, *(entrant.pid for entrant in self.whole)]):
                    self._round(self._hands[number % rounds])
                    after = probe.cost()
                self.sharing.append(max(before, after))
                before = after

    def _numbers(self, rounds: int, most: int) -> Iterator[int]:
        """Of the rounds: as many as asked for, and more while those to compare candidates by are too few."""
        for number in range(most):
            if number >= rounds and enough_together(self.sharing):
                return
            yield number

    def _start(self, sitting: ExitStack) -> None:
        for entrant in self.whole:
            entrant.start(sitting)
        for entrant in self.whole:
            entrant.open()
        for entrant in self.whole:
            entrant.warm_up(_calls(self._texts, self._config, _WARM_UP_CALLS)[0])

    @cached_property
    def _hands(self) -> list[list[list[Text]]]:
        """For each round its calls: more than asked for where they are quick, fewer where they take too long.

        All candidates make the same, or rounds would differ by their texts; so the slowest decides. A turn that
        is over in a moment sees too little of the machine; and a p95 that was asked for must not be missing.
        """
        config, slowest = self._config, max(max(entrant.call_ms for entrant in self.whole), 1e-3)
        if config.samples < SAMPLES_FOR_P95:
            return _calls(self._texts, config, config.samples)
        quick = min(int(config.rounds * _TURN_MS / slowest), _MOST_UNASKED)
        in_time = max(int(config.seconds * 1e3 / slowest), SAMPLES_FOR_P95)
        return _calls(self._texts, config, min(max(config.samples, quick), in_time))

    def _round(self, hand: list[list[Text]]) -> None:
        order = list(self.whole)
        self._order.shuffle(order)
        for entrant in order:
            time.sleep(_SETTLE_SECONDS)
            entrant.round(hand)


class _Probe:
    """A process that tells what it costs to share small work among the threads (see ``speed.py``)."""

    def __init__(self, stack: ExitStack, config: BenchConfig) -> None:
        threads = SessionConfig(config.threads).thread_count
        self._children = [stack.enter_context(Child(_SHARING_WORKER, threads))] if threads > 1 else []

    @property
    def pids(self) -> list[int]:
        return [child.pid for child in self._children]

    def cost(self) -> float:
        """Times the duration on one thread; 0 for one thread, which shares nothing."""
        try:
            return max((float(child.ask("cost")) for child in self._children), default=0.0)
        except ChildFailed as failure:
            raise EnvironmentMissing(f"measuring failed: {failure}", "the probe of the threads", _AGAIN) from None


class _Entrant:
    """One candidate, its process of this sitting, and what it has measured so far."""

    def __init__(self, contender: Contender, config: BenchConfig) -> None:
        self._contender, self._config = contender, config
        self._child: Child | None = None
        # Milliseconds of the calls of each round of each sitting.
        self._sittings: list[list[list[float]]] = []
        self._tokenize: list[float] = []
        self._cold_start_ms: list[float] = []
        self._memory_bytes = self._device_bytes = 0
        # Of each round the mean of its calls by the GPU's clock.
        self._device_ms: list[float] = []
        self.call_ms = 0.0
        self.error: EdgebertError | None = None

    @property
    def name(self) -> str:
        return self._contender.name

    @property
    def pid(self) -> int:
        assert self._child
        return self._child.pid

    @property
    def medians(self) -> list[float]:
        """Of each round, in ms."""
        return [float(np.median(values)) for sitting in self._sittings for values in sitting]

    def start(self, sitting: ExitStack) -> None:
        settings = {
            "path": self._contender.path, "target": self._contender.target,
            "threads": self._config.threads, "seq_len": self._config.seq_len, "warm_ms": _WARM_MS,
            "trust_engine": self._config.trust_engine,
        }  # fmt: skip
        self._child = sitting.enter_context(Child(_LATENCY_WORKER, settings))
        self._sittings.append([])

    def open(self) -> None:
        answer = self._ask("open")
        self._cold_start_ms.append(answer.get("cold_start_ms", 0.0))

    def warm_up(self, calls: list[list[Text]]) -> None:
        answer = self._ask("round", calls)
        # The first calls still fill caches: judge the speed by the later half.
        half = answer.get("total_ms", [0.0])[len(calls) // 2 :]
        self.call_ms = float(np.mean(half)) if half else 0.0

    def round(self, calls: list[list[Text]]) -> None:
        answer = self._ask("round", calls)
        if self.error is None:
            self._sittings[-1].append(answer["total_ms"])
            self._tokenize += answer["tokenize_ms"]
            self._memory_bytes = max(self._memory_bytes, answer["memory_bytes"])
            self._device_bytes = max(self._device_bytes, answer["device_bytes"])
            if answer["device_ms"] is not None:
                self._device_ms.append(answer["device_ms"])

    def _ask(self, method: str, *arguments: object) -> dict[str, Any]:
        """The process's answer; one that died or refused sets ``error``, and is not asked again."""
        if self.error is not None:
            return {}
        assert self._child
        try:
            answer: dict[str, Any] = self._child.ask(method, *arguments)
            return answer
        except ChildFailed as failure:
            self.error = EnvironmentMissing(f"measuring failed: {failure}", str(self._contender.path), _LEAVE_OUT)
        except EdgebertError as error:
            self.error = error
        return {}

    @cached_property
    def samples(self) -> npt.NDArray[np.float64]:
        return np.array([value for sitting in self._sittings for values in sitting for value in values])

    @cached_property
    def _p95(self) -> tuple[float, float, float]:
        return float(np.percentile(self.samples, 95)), *repeat_interval(self._sittings, 95)

    @property
    def tail(self) -> float:
        """How many times its p95 the upper end of its interval is."""
        return self._p95[2] / self._p95[0]

    def latency(self, common: _Common) -> Latency:
        """What came out."""
        p50_low, p50_high = repeat_interval(self._sittings, 50)
        p95, p95_low, _ = self._p95 if len(self.samples) >= SAMPLES_FOR_P95 else (None, None, None)
        ours, theirs = ([entrant.medians[i] for i in common.rounds] for entrant in (self, common.yardstick))
        return Latency(
            p50=float(np.median(self.samples)), p50_low=p50_low, p50_high=p50_high,
            p95=p95, p95_low=p95_low, p95_high=None if p95 is None else p95 * common.tail,
            tokenize_p50=float(np.median(self._tokenize)),
            texts_per_s=self._config.batch_size * 1e3 / float(self.samples.mean()),
            samples=len(self.samples), batch_size=self._config.batch_size, seq_len=self._config.seq_len,
            threads=SessionConfig(self._config.threads).thread_count,
            cold_start_ms=float(np.median(self._cold_start_ms)), memory_bytes=self._memory_bytes,
            ratio=paired_ratio(ours, theirs), rounds=tuple(ours), run=common.run,
            device_ms=float(np.mean(self._device_ms)) if self._device_ms else None, device_bytes=self._device_bytes,
        )  # fmt: skip


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
