"""What rounds of interleaved measurements say: percentiles and ratios with their uncertainty.

Samples of one round share its luck, rounds of one sitting that of its processes, so intervals are bootstraps over
sittings first, then rounds (Efron 1979; Davison and Hinkley 1997, 3.8), seeded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
Array = npt.NDArray[np.float64]

# The cost of sharing work among threads, as a multiple of one thread's time, above which it loses.
MOST_SHARING = 1.0
FEWEST_ROUNDS = 5
_RESAMPLES = 1000
_VALUES_AT_ONCE = 1_000_000
_TAILS = (0.025, 0.975)
_AGAIN = math.sqrt(2)


def repeat_interval(
    sittings: Sequence[Sequence[Sequence[float]]], percentile: float, seed: int = 0
) -> tuple[float, float]:
    """In what range a percentile is expected in 95 of 100 cases when all is measured again.

    Sittings are resampled, rounds within each, and samples within those. The quantiles of that tell how far the
    measured value may be from the true one; a repeat is off by as much again, independently, so its distance
    from the measured value is wider by the root of two (a prediction interval).
    """
    resamples = _Resamples([sitting for sitting in sittings if sitting], seed)
    low, high = np.quantile(resamples.percentiles(percentile), _TAILS)
    middle = np.percentile([value for sitting in sittings for values in sitting for value in values], percentile)
    return float(max(0.0, middle - _AGAIN * (middle - low))), float(middle + _AGAIN * (high - middle))


class _Resamples:
    """Draws sittings, rounds of them, and samples of those, all with replacement."""

    def __init__(self, sittings: Sequence[Sequence[Sequence[float]]], seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self._rounds = np.array([len(sitting) for sitting in sittings])
        most = max(len(values) for sitting in sittings for values in sitting)
        shape = (len(sittings), int(self._rounds.max()))
        # Padded to one shape: how many of each count is kept beside it.
        self._values, self._counts = np.zeros((*shape, most)), np.ones(shape, dtype=np.int64)
        for i, sitting in enumerate(sittings):
            for j, values in enumerate(sitting):
                self._values[i, j, : len(values)], self._counts[i, j] = values, len(values)

    def percentiles(self, percentile: float) -> Array:
        """The percentile of each of 1,000 resamples; some at a time, or they might not fit into memory."""
        found: list[Array] = []
        while (left := _RESAMPLES - sum(map(len, found))) > 0:
            count = max(1, min(left, _VALUES_AT_ONCE // self._values.size))
            found.append(np.percentile(self._drawn(count), percentile, axis=1))
        return np.concatenate(found)

    def _drawn(self, count: int) -> Array:
        sittings, rounds, samples = self._values.shape
        i = self._generator.integers(0, sittings, size=(count, sittings, 1, 1))
        j = self._places(self._rounds[i], (count, sittings, rounds, 1))
        k = self._places(self._counts[i, j], (count, sittings, rounds, samples))
        return self._values[i, j, k].reshape(count, -1)

    def _places(self, counts: npt.NDArray[np.int64], shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
        return np.floor(self._generator.random(shape) * counts).astype(np.int64)


def together(sharing: Sequence[float]) -> list[int]:
    """Rounds by which candidates are compared: those in which sharing work among threads gained.

    ``sharing`` holds each round's cost of it (see ``speed.py``). All rounds, where the others are too few.
    """
    return _gained(sharing) if enough_together(sharing) else list(range(len(sharing)))


def enough_together(sharing: Sequence[float]) -> bool:
    """Whether sharing gained in rounds enough to compare candidates by."""
    return len(_gained(sharing)) >= FEWEST_ROUNDS


def _gained(sharing: Sequence[float]) -> list[int]:
    return [place for place, cost in enumerate(sharing) if cost <= MOST_SHARING]


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
