"""A soak of one model: many threads, ten minutes at 70 % of capacity, two at 150 %, and back.

    python benchmarks/soak.py [ARTIFACT] [--threads N] [--steady S] [--over S] [--recovery S]

Without ARTIFACT, minilm is exported in fp32 as a sentence encoder. First 1, 4, 16 and 32 threads ask the model itself
for 500 texts of 1 to 512 tokens. Then a batcher is asked at random times, 70 % of the time that it can take, then
beyond it, then less again. Every answer is compared with what the model says of the text alone. Exit 1 where one is
wrong, lost or hung, where resident memory grew by more than 5 % (or 32 MiB) from after the first steady tenth to the
end, or where file descriptors or threads did. In dynamic int8 an answer depends on its batch: how much is printed.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import tempfile
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import heading
from open_loop import arrivals, percentile, percentiles

import edgebert
from edgebert.errors import DeadlinePassed, QueueFull
from edgebert.judging.parity import sample

CALLERS = (1, 4, 16, 32)
STEADY, OVER = 0.7, 1.5
# Requests of the closed loop that capacity is measured with, and how long it takes.
OUTSTANDING, CAPACITY_SECONDS = 64, 10.0
# A request that is not answered so long after the last was sent is hung.
HUNG_SECONDS = 60.0
GROWTH, GROWTH_BYTES = 0.05, 32 * 2**20
# How far an answer may be from the text's own: padding changes sums; dynamic scales are of the whole batch.
TOLERANCES = {"": 1e-4, "static": 5e-3, "dynamic": 0.3}


@dataclass(frozen=True)
class Held:
    """What a process holds: resident bytes, open files, threads."""

    bytes: int
    files: int
    threads: int

    @classmethod
    def now(cls) -> Held:
        """Looked up in /proc, after what nobody needs any more is gone."""
        gc.collect()
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        resident, threads = int(lines["VmRSS"].split()[0]) * 1024, int(lines["Threads"])
        return cls(resident, len(os.listdir("/proc/self/fd")), threads)


@dataclass
class Phase:
    """What became of the requests of one phase. Latencies are in seconds from when each was to be sent."""

    name: str
    sent: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    # Unboxed: what the soak itself keeps must not look like growth.
    latencies: array[float] = field(default_factory=lambda: array("d"))
    furthest: float = 0.0

    @property
    def bad(self) -> int:
        """Requests that are wrong, failed or hung."""
        return self.ends["wrong"] + self.ends["failed"] + self.sent - sum(self.ends.values())


class Truth:
    """What the model says of each text alone, and how far an answer is from it."""

    def __init__(self, model: edgebert.Model, texts: Sequence[str]) -> None:
        self.texts = texts
        self._answers = [numbers(model.finish([tokens])[0]) for tokens in model.tokenize(texts)]
        needs = model.artifact.manifest.needs
        self.tolerance = TOLERANCES[str(needs.get("scheme", ""))]

    def distance(self, index: int, answer: Any) -> float:
        """The largest difference of a number."""
        found = numbers(answer)
        return (
            float(np.abs(found - self._answers[index]).max()) if found.shape == self._answers[index].shape else np.inf
        )


def numbers(answer: Any) -> np.ndarray[Any, Any]:
    """An answer as numbers: a vector, or the scores of a prediction."""
    return np.asarray(list(answer.scores.values()) if hasattr(answer, "scores") else answer, dtype=np.float64)


def make_texts(count: int, tokens: Callable[[str], int], longest: int, seed: int = 0) -> list[str]:
    """Texts of 1 to ``longest`` tokens without special ones, short ones as often as long ones by their logarithm."""
    generator = random.Random(seed)
    words = [word for text in sample() for word in text.split()]  # type: ignore[union-attr]
    texts = []
    for _ in range(count):
        wanted = round(longest ** generator.random())
        chosen = generator.choices(words, k=wanted)
        while len(chosen) > 1 and tokens(" ".join(chosen)) > wanted:
            chosen = chosen[: -max(1, len(chosen) // 16)]
        texts.append(" ".join(chosen))
    return texts


def by_threads(model: edgebert.Model, truth: Truth, callers: int) -> Phase:
    """All texts once, asked by so many threads of the model itself."""
    phase, start = Phase(f"{callers} threads"), time.perf_counter()

    def ask(index: int) -> None:
        answer = model.finish(model.tokenize([truth.texts[index]]))[0]
        settle(phase, lock, truth, index, answer, time.perf_counter() - start)

    lock = threading.Lock()
    with ThreadPoolExecutor(callers) as pool:
        phase.sent = len(truth.texts)
        list(pool.map(ask, range(len(truth.texts))))
    return phase


def settle(phase: Phase, lock: threading.Lock, truth: Truth, index: int, answer: Any, seconds: float) -> None:
    """Count an answer as right or wrong."""
    distance = truth.distance(index, answer)
    with lock:
        phase.ends["right" if distance <= truth.tolerance else "wrong"] += 1
        phase.furthest = max(phase.furthest, distance)
        phase.latencies.append(seconds)


def capacity(batcher: edgebert.Batcher, texts: Sequence[str], seconds: float) -> float:
    """Texts a second where there are always some that wait."""
    generator, room, done = random.Random(1), threading.Semaphore(OUTSTANDING), 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        room.acquire()
        batcher.submit(generator.choice(texts)).add_done_callback(lambda _: room.release())
        done += 1
    for _ in range(OUTSTANDING):
        room.acquire()
    return done / (time.perf_counter() - start)


def by_rate(batcher: edgebert.Batcher, truth: Truth, name: str, rate: float, seconds: float, seed: int) -> Phase:
    """Random texts at random times; those that the batcher turns away at once are counted, and are no loss."""
    phase, lock, waiting = Phase(name), threading.Lock(), threading.Semaphore(0)
    generator = random.Random(seed)

    def finished(index: int, due: float) -> Callable[[Future[Any]], None]:
        def note(future: Future[Any]) -> None:
            error = future.exception()
            if error is None:
                settle(phase, lock, truth, index, future.result(), time.perf_counter() - start - due)
            else:
                with lock:
                    phase.ends["late" if isinstance(error, DeadlinePassed) else "failed"] += 1
            waiting.release()

        return note

    start, accepted = time.perf_counter(), 0
    for due in arrivals(rate, seconds, seed):
        time.sleep(max(0.0, start + due - time.perf_counter()))
        index = generator.randrange(len(truth.texts))
        phase.sent += 1
        try:
            future = batcher.submit(truth.texts[index], timeout_ms=10_000)
        except QueueFull:
            with lock:
                phase.ends["turned away"] += 1
            continue
        accepted += 1
        future.add_done_callback(finished(index, due))
    end = time.monotonic() + HUNG_SECONDS
    for _ in range(accepted):
        if not waiting.acquire(timeout=max(0.0, end - time.monotonic())):
            break
    return phase


@dataclass(frozen=True)
class Lengths:
    """Seconds of each phase at a rate."""

    steady: float
    over: float
    recovery: float


def soak(model: edgebert.Model, texts: Sequence[str], lengths: Lengths) -> tuple[list[Phase], Held, Held, float]:
    """All phases, what was held after the first steady tenth and at the end, and texts a second at capacity."""
    truth = Truth(model, texts)
    phases = [by_threads(model, truth, callers) for callers in CALLERS]
    with edgebert.Batcher(model) as batcher:
        most = capacity(batcher, texts, min(CAPACITY_SECONDS, lengths.steady))
        phases.append(by_rate(batcher, truth, "warm-up, 70 %", STEADY * most, lengths.steady / 10, 2))
        before = Held.now()
        for seed, (name, share, seconds) in enumerate(
            (
                ("70 %", STEADY, lengths.steady), ("150 %", OVER, lengths.over),
                ("back at 70 %", STEADY, lengths.recovery),
            ), start=3,
        ):  # fmt: skip
            phases.append(by_rate(batcher, truth, name, share * most, seconds, seed))
        after = Held.now()
    return phases, before, after, most


def complaints(phases: Sequence[Phase], before: Held, after: Held) -> list[str]:
    """What is not as it should be."""
    found = [f"{phase.name}: {phase.bad} requests wrong, failed or hung" for phase in phases if phase.bad]
    if after.bytes - before.bytes > max(GROWTH * before.bytes, GROWTH_BYTES):
        found.append(f"resident memory grew from {before.bytes / 2**20:.0f} to {after.bytes / 2**20:.0f} MiB")
    if after.files > before.files:
        found.append(f"open files grew from {before.files} to {after.files}")
    if after.threads > before.threads:
        found.append(f"threads grew from {before.threads} to {after.threads}")
    steady, back = phases[-3], phases[-1]
    if percentile(back.latencies, 0.5) > 3 * percentile(steady.latencies, 0.5) + 0.05:
        found.append("it did not recover: the median latency afterwards is more than three times that before")
    return found


def main() -> int:
    """Print the table; 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path, nargs="?")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--steady", type=float, default=600.0)
    parser.add_argument("--over", type=float, default=120.0)
    parser.add_argument("--recovery", type=float, default=60.0)
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        edgebert.load(asked.artifact or exported(folder), threads=asked.threads) as model,
    ):
        # Special tokens are of the 512 too.
        room = model.tokenizer.max_length - model.tokenizer.specials
        texts = make_texts(
            asked.texts, lambda text: model.cost(model.tokenize([text])[0]) - model.tokenizer.specials, room
        )
        result = soak(model, texts, Lengths(asked.steady, asked.over, asked.recovery))
        return tell(model, *result)


def exported(folder: str) -> Path:
    """minilm as a sentence encoder in fp32: one that always answers alike."""
    from edgebert import build

    return build.export("minilm", out=folder)[0].path


def tell(model: edgebert.Model, phases: Sequence[Phase], before: Held, after: Held, most: float) -> int:
    """Print what happened; 1 where something is wrong."""
    facts = model.facts()
    print(heading(f"Soak of {Path(facts['artifact']).name}: {facts['precision']}, {facts['threads']} threads"))
    print(f"Capacity {most:.0f} texts/s.\n")
    print("| phase | sent | right | wrong | failed | hung | turned away | late | p50, p95, p99 ms | furthest |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for phase in phases:
        ends, hung = phase.ends, phase.sent - sum(phase.ends.values())
        told = "-" if phase.name.endswith("threads") else percentiles(phase.latencies)
        counts = (phase.sent, ends["right"], ends["wrong"], ends["failed"], hung, ends["turned away"], ends["late"])
        print(f"| {phase.name} | {' | '.join(map(str, counts))} | {told} | {phase.furthest:.1e} |")
    print("\n| | resident MiB | open files | threads |\n|---|---|---|---|")
    for name, held in (("after the warm-up", before), ("at the end", after)):
        print(f"| {name} | {held.bytes / 2**20:.0f} | {held.files} | {held.threads} |")
    wrong = complaints(phases, before, after)
    print("\n" + ("; ".join(wrong) if wrong else "Nothing wrong, lost or hung; memory, files and threads flat."))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
