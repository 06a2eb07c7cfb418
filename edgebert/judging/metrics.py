"""Task metrics with their uncertainty, as pure functions on arrays.

Intervals are percentile bootstraps over texts (Efron 1979), seeded; differences of two models are
bootstrapped in pairs, on the same texts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgebert.aggregates import AGGREGATES, Aggregate, Float
from edgebert.spans import entity_counts
from edgebert.squad import compared

RESAMPLES = 1000
_LEVEL = 0.95


@dataclass(frozen=True)
class Metric:
    """A metric as a fraction, with the 95 % interval [low, high]."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class AnswerMetric(Metric):
    """F1 of answers, and the other number that SQuAD's evaluation script prints beside it."""

    exact_match: Metric


@dataclass(frozen=True)
class Scores:
    """What a metric is computed from, one row a text.

    [n, 1] of 0/1 hits, [n, 2] of paired ratings, of counts (right, all) or of F1 and exact match, or [n, 3] of counts
    (right, answered, expected).
    A classifier's also hold what was answered: ``predicted`` [n] are indices into ``labels``, which has the
    artifact's own order, and ``confidence`` [n] is the probability of each answer.
    """

    metric: str
    rows: Float
    labels: tuple[str, ...] = ()
    predicted: npt.NDArray[np.int32] | None = None
    confidence: npt.NDArray[np.float32] | None = None

    def metric_value(self) -> Metric:
        """The metric and its interval."""
        low, high = np.quantile(self._resampled(), _tails())
        return Metric(self.metric, float(AGGREGATES[self.metric](self.rows[None])[0]), float(low), float(high))

    def _resampled(self) -> Float:
        return resample(self.rows, AGGREGATES[self.metric])


def accuracy(predicted: Sequence[str], expected: Sequence[str]) -> Scores:
    """Share of texts whose label is right."""
    hits = [[float(p == e)] for p, e in zip(predicted, expected, strict=True)]
    return Scores("accuracy", np.array(hits, dtype=np.float64).reshape(-1, 1))


def micro_f1(predicted: Sequence[Collection[str]], expected: Sequence[Collection[str]]) -> Scores:
    """F1 over all labels of all texts together: 2 · right / (answered + expected)."""
    pairs = [(set(p), set(e)) for p, e in zip(predicted, expected, strict=True)]
    counts = [(len(p & e), len(p), len(e)) for p, e in pairs]
    return Scores("micro_f1", np.array(counts, dtype=np.float64).reshape(-1, 3))


def entity_f1(predicted: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]) -> Scores:
    """F1 of entities right in type and both ends, over all texts together, from IOB2 tags of the same words.

    As conlleval (Tjong Kim Sang and De Meulder 2003) and seqeval's default count.
    """
    counts = [entity_counts(p, e) for p, e in zip(predicted, expected, strict=True)]
    return Scores("entity_f1", np.array(counts, dtype=np.float64).reshape(-1, 3))


def answer_f1(predicted: Sequence[str], expected: Sequence[Sequence[str]]) -> Scores:
    """Mean F1 of the words of answers with the nearest of those expected, as SQuAD's evaluation script has it.

    The second column is exact match: 1 where the answer is equal to one that was expected.
    """
    rows = [compared(p, e) for p, e in zip(predicted, expected, strict=True)]
    return Scores("answer_f1", np.array(rows, dtype=np.float64).reshape(-1, 2))


def whole_metric(scores: Scores) -> Metric:
    """The metric with all that belongs to it: of answers an :class:`AnswerMetric`."""
    found = scores.metric_value()
    if scores.metric != "answer_f1":
        return found
    exact = Scores("exact_match", scores.rows[:, 1:]).metric_value()
    return AnswerMetric(found.name, found.value, found.low, found.high, exact)


def masked_accuracy(counts: Sequence[tuple[int, int]]) -> Scores:
    """Share of hidden tokens that were guessed, over all texts together, from (guessed, hidden) of each text."""
    return Scores("masked_accuracy", np.array(counts, dtype=np.float64).reshape(-1, 2))


def spearman(answers: npt.NDArray[np.floating], ratings: Sequence[float]) -> Scores:
    """Rank correlation of what a model answers, a score or the cosine of a pair, with human ratings (STS)."""
    return Scores("spearman", np.column_stack([answers, np.asarray(ratings)]).astype(np.float64))


def agreement(vectors: npt.NDArray[np.floating], reference: npt.NDArray[np.floating]) -> Scores:
    """Mean cosine between a model's text vectors and the reference's: the metric where nothing is labelled."""
    return Scores("cosine", cosine_rows(vectors, reference)[:, None])


def difference(first: Scores, second: Scores) -> Metric:
    """First minus second on the same texts, with the paired interval. Raises ValueError for unlike scores."""
    if first.metric != second.metric or len(first.rows) != len(second.rows):
        raise ValueError("paired scores must be of one metric and one set of texts")
    both = np.concatenate([first.rows, second.rows], axis=1)
    aggregate, width = AGGREGATES[first.metric], first.rows.shape[1]

    def gap(rows: Float) -> Float:
        result: Float = aggregate(rows[..., :width]) - aggregate(rows[..., width:])
        return result

    low, high = np.quantile(resample(both, gap), _tails())
    return Metric(first.metric, float(gap(both[None])[0]), float(low), float(high))


def resample(rows: Float, aggregate: Aggregate, seed: int = 0) -> Float:
    """``RESAMPLES`` bootstrap values of an aggregate that maps [k, n, columns] to [k]."""
    generator = np.random.default_rng(seed)
    values = []
    # A few at a time: resampling everything at once would take RESAMPLES copies of the rows.
    for _ in range(RESAMPLES // 50):
        picks = generator.integers(0, len(rows), size=(50, len(rows)))
        values.append(aggregate(rows[picks]))
    return np.concatenate(values)


def cosine_rows(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> Float:
    """Cosine of corresponding rows, [n, d] and [n, d] to [n]; 1 where both are zero."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    result: Float = np.where(norms > 0, (a * b).sum(axis=1) / np.where(norms > 0, norms, 1), 1.0)
    return result


def _tails() -> list[float]:
    return [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]
