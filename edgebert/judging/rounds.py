"""What rounds of interleaved measurements say: percentiles and ratios with their uncertainty.

Samples of one round share its luck, so intervals are bootstraps over rounds first (Efron 1979), seeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")

_RESAMPLES = 1000
_TAILS = (0.025, 0.975)


def round_interval(rounds: Sequence[Sequence[float]], percentile: float, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of a percentile: rounds are resampled, then samples within each."""
    generator = np.random.default_rng(seed)
    arrays = [np.asarray(values, dtype=np.float64) for values in rounds]
    values = []
    for _ in range(_RESAMPLES):
        chosen = generator.integers(0, len(arrays), size=len(arrays))
        pooled = [generator.choice(arrays[i], size=len(arrays[i])) for i in chosen]
        values.append(np.percentile(np.concatenate(pooled), percentile))
    low, high = np.quantile(values, _TAILS)
    return float(low), float(high)


@dataclass(frozen=True)
class Ratio:
    """How many times the reference's latency, with its 95 % interval."""

    value: float
    low: float
    high: float


def paired_ratio(ours: Sequence[float], reference: Sequence[float], seed: int = 0) -> Ratio:
    """The median over rounds of our latency over the reference's in the same round.

    A drift of the machine touches both alike and cancels out. Both are medians of rounds, in order.
    """
    ratios = np.asarray(ours, dtype=np.float64) / np.asarray(reference, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(ratios), size=(_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[picks], axis=1), _TAILS)
    return Ratio(float(np.median(ratios)), float(low), float(high))


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


def deal(items: Sequence[T], lengths: Sequence[int], rounds: int, seed: int = 0) -> list[list[T]]:
    """Deal items to rounds so that every round gets short and long ones in the same proportion.

    Neighbours in length go to different rounds, which of them to which by chance; the order within a round
    is by chance too. Rounds then differ by the machine's mood and not by their texts.
    """
    generator = np.random.default_rng(seed)
    by_length = sorted(range(len(items)), key=lambda i: lengths[i])
    hands: list[list[T]] = [[] for _ in range(min(rounds, len(items)))]
    for start in range(0, len(by_length), len(hands)):
        group = by_length[start : start + len(hands)]
        for hand, place in zip(generator.permutation(len(hands)), group, strict=False):
            hands[hand].append(items[place])
    return [[hand[i] for i in generator.permutation(len(hand))] for hand in hands]
