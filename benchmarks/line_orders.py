"""What the order and the batches of a batcher's line are worth: requests of mixed lengths in simulated time.

    python benchmarks/line_orders.py ARTIFACT [--seconds S]

Calls of many shapes are timed here, alone and in two lanes at once; what they cost is fitted to them. Then the line of
a batcher (edgebert/serving/line.py) is given the texts of the traffic benchmark at random times, as many as keep the
lanes busy 70 % of the time were each a call of its own. HTTP costs nothing here, so what is left of the latency is
the queue's.
"""

from __future__ import annotations

import argparse
import heapq
import random
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from common import heading
from open_loop import arrivals, percentile, percentiles
from serving_places import SHARED
from serving_traffic import mixed

import edgebert
from edgebert.serving import line
from edgebert.serving.tokens import Tokens

# Texts and tokens of each in the calls that are timed, and how often.
SHAPES = ((1, 8), (4, 8), (1, 16), (4, 16), (1, 32), (4, 32), (1, 64), (2, 64), (1, 128), (2, 128), (1, 256), (1, 512))
REPEATS = 15
BUSY = 0.7


@dataclass(frozen=True)
class Cost:
    """Seconds of a call: so many for the call, for each token, and for each pair of tokens of one text."""

    call: float
    token: float
    pair: float

    def __call__(self, lengths: Sequence[int]) -> float:
        """Of a batch of texts, padded to the longest."""
        tokens = len(lengths) * max(lengths)
        return self.call + self.token * tokens + self.pair * tokens * max(lengths)


@dataclass(frozen=True)
class Rule:
    """How a line is served."""

    patience: float = line.PATIENCE
    slack: int = line.SLACK
    most: int = 256
    lanes: int = 2


RULES = {
    "as it is": Rule(),
    "first come, first served": Rule(patience=0),
    "patience 4": Rule(patience=4),
    "patience 30": Rule(patience=30),
    "shortest first": Rule(patience=1e6),
    "no padding": Rule(slack=0),
    "padding by 8 tokens": Rule(slack=8),
    "padding by 16 tokens": Rule(slack=16),
    "64 tokens a batch": Rule(most=64),
    "one call at a time, on both threads": Rule(lanes=1),
}


def fitted(model: edgebert.Model, at_once: int) -> Cost:
    """What calls cost where so many are made at once."""
    taken = [_seconds(model, *shape, at_once) for shape in SHAPES]
    terms = np.array([(1, n * length, n * length**2) for n, length in SHAPES]) / np.array(taken)[:, None]
    # Of each the relative error counts: the longest take a hundred times as long as the shortest.
    (call, token, pair), *_ = np.linalg.lstsq(terms, np.ones(len(SHAPES)), rcond=None)
    return Cost(max(0.0, float(call)), float(token), max(0.0, float(pair)))


def _seconds(model: edgebert.Model, texts: int, length: int, at_once: int) -> float:
    batch, taken = [Tokens([5] * length, [0] * length, truncated=False)] * texts, list[float]()

    def calls() -> None:
        for _ in range(REPEATS):
            start = time.perf_counter()
            model.finish(batch)
            taken.append(time.perf_counter() - start)

    threads = [threading.Thread(target=calls) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statistics.median(taken)


def simulated(lengths: Sequence[int], cost: Cost, rule: Rule, rate: float, seconds: float, seed: int) -> list[float]:
    """Seconds from arrival to answer of requests that come at random times."""
    generator, number = random.Random(seed), count()
    coming = deque((when, generator.choice(lengths)) for when in arrivals(rate, seconds, seed))
    waiting, found = line.Line(), list[float]()
    computing: list[tuple[float, int, list[line.Request]]] = []
    while coming or computing:
        if computing and (not coming or computing[0][0] <= coming[0][0]):
            now, _, batch = heapq.heappop(computing)
            found += [now - request.arrived for request in batch]
        else:
            now, length = coming.popleft()
            due = now + rule.patience * cost.token * length
            waiting.put(line.Request(Tokens([], [], truncated=False), length, now, due, None, Future()))
        while len(waiting) and len(computing) < rule.lanes:
            batch = waiting.take(rule.most)
            heapq.heappush(computing, (now + cost([request.length for request in batch]), next(number), batch))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--seconds", type=float, default=200.0)
    asked = parser.parse_args()
    with edgebert.load(asked.artifact, threads=2) as model:
        lengths = [model.cost(tokens) for tokens in model.tokenize(mixed(SHARED / "data", 5000))]
        alone = fitted(model, 1)
        # The lanes open when calls first meet.
        _seconds(model, 1, 64, 2)
        while model.at_once > 1 and not model.facts()["lanes"]:
            time.sleep(0.1)
        print(heading(f"Orders of a line, simulated with the costs of {asked.artifact.name}"))
        _print(lengths, alone, fitted(model, 2), asked.seconds)


def _print(lengths: Sequence[int], alone: Cost, lane: Cost, seconds: float) -> None:
    for name, cost in (("alone, on both threads", alone), ("in each of two lanes", lane)):
        parts = f"{1e6 * cost.call:.0f} µs, {1e6 * cost.token:.1f} a token, {1e9 * cost.pair:.1f} ns a pair of tokens"
        print(f"A call {name}: {parts}.")
    unloaded = [alone([length]) for length in lengths]
    rate = BUSY * 2 / statistics.mean(lane([length]) for length in lengths)
    print(f"Nobody else there: {percentiles(unloaded)} ms (p50, p95, p99). {rate:.0f} texts a second come.\n")
    print("| the line | p50, p95, p99 ms | p99 over unloaded |")
    print("|---|---|---|")
    for name, rule in RULES.items():
        line.SLACK = rule.slack
        found = simulated(lengths, alone if rule.lanes == 1 else lane, rule, rate, seconds, 0)
        ratio = percentile(found, 0.99) / percentile(unloaded, 0.99)
        print(f"| {name} | {percentiles(found)} | {ratio:.1f} |")


if __name__ == "__main__":
    sys.exit(main())
