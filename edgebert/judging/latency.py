"""What is measured, how, and what comes out: plain values. The measuring itself is in ``bench.py``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebert.errors import EdgebertError
from edgebert.judging.conditions import Conditions
from edgebert.judging.rounds import Ratio, paired_ratio

# Below this many samples the 95th percentile rests on fewer than ten values.
SAMPLES_FOR_P95 = 200


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

    ``samples`` calls are aimed at for each candidate, in ``rounds`` rounds, every two of them with fresh processes
    where the calls are enough for a p95. Where calls are quick all make more; where the slowest candidate would need
    more than ``seconds`` for them, fewer, but not below what a p95 needs. ``seq_len`` None means the texts as they
    are. ``threads`` None means all that are allowed. ``trust_engine`` allows engines that artifacts bring to be opened.
    """

    batch_size: int = 1
    seq_len: int | None = None
    threads: int | None = None
    samples: int = 400
    rounds: int = 20
    seconds: float = 30.0
    seed: int = 0
    trust_engine: bool = False


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call (``batch_size`` texts, text to answer).

    Intervals are those in which a repeat of the measurement is expected in 95 of 100 cases; the upper end of
    ``p95`` is as many times its value as that of the worst candidate of the run. ``p95`` and its interval are
    None below 200 samples. ``tokenize_p50`` is the part of the call spent on tokens;
    ``cold_start_ms``, the median over processes, runs from opening the artifact to the first answer;
    ``memory_bytes`` is the most resident memory that one of the processes held after its last round. ``device_ms`` is
    the mean of a call by the GPU's own clock (None where no GPU runs it), ``device_bytes`` what it holds there.
    ``ratio`` is the median over rounds of this latency over the reference's in the same round (None where there was no
    reference), ``rounds`` are the medians that it was made of, and ``run`` names the measurement: rounds of one
    run can be compared in pairs.
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
    device_ms: float | None = None
    device_bytes: int = 0

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
        """What makes one run of the same contenders better than another: fewer losses, undisturbed, less drift."""
        lost = sum(not isinstance(result, Latency) for result in self.results)
        if self.conditions is None:
            return lost, True, math.inf
        return lost, bool(self.conditions.disturbances), self.conditions.drift
