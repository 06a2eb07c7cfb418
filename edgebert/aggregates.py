"""From what is counted of each text to the value of a metric, as pure functions on arrays.

Each maps [k, n, columns], k samples of n texts, to [k]; what the columns are is said in ``judging/metrics.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
Aggregate = Callable[[Float], Float]


def mean(rows: Float) -> Float:
    """Mean of the first column."""
    result: Float = rows[..., 0].mean(axis=-1)
    return result


def micro_f1(rows: Float) -> Float:
    """F1 over all texts together, of the columns right, answered and expected; 0 where there is nothing."""
    right, answered, expected = (rows[..., column].sum(axis=-1) for column in range(3))
    both = answered + expected
    result: Float = np.where(both > 0, 2 * right / np.where(both > 0, both, 1), 0.0)
    return result


def ratio(rows: Float) -> Float:
    """The sum of the first column by that of the second; 0 where there is nothing."""
    part, whole = rows[..., 0].sum(axis=-1), rows[..., 1].sum(axis=-1)
    result: Float = np.where(whole > 0, part / np.where(whole > 0, whole, 1), 0.0)
    return result


def rank_correlation(rows: Float) -> Float:
    """Spearman's rho of the two columns, with average ranks for ties; 0 where one is constant."""
    x, y = _ranks(rows[..., 0]), _ranks(rows[..., 1])
    x, y = x - x.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
    scale = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    result: Float = np.where(scale > 0, (x * y).sum(axis=-1) / np.where(scale > 0, scale, 1), 0.0)
    return result


def _ranks(values: Float) -> Float:
    return np.stack([_average_ranks(row) for row in values.reshape(-1, values.shape[-1])]).reshape(values.shape)


def _average_ranks(row: Float) -> Float:
    _, inverse, counts = np.unique(row, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    result: Float = (last - (counts - 1) / 2)[inverse]
    return result


AGGREGATES: Mapping[str, Aggregate] = {
    "accuracy": mean,
    "cosine": mean,
    "spearman": rank_correlation,
    "micro_f1": micro_f1,
    "entity_f1": micro_f1,
    "answer_f1": mean,
    "exact_match": mean,
    "masked_accuracy": ratio,
}
