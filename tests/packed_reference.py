"""ONNX Runtime's operators of packed graphs, which have no kernel for a CPU, in numpy: as ContribOperators.md says.

Slow and plain; what a packed graph answers is compared with what ONNX Runtime answers by the fused graph.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from edgebert.runtimes.session import Array


class RemovePadding(OpRun):
    """[batch, sequence, width] to [tokens, width], and where those tokens and the padding were."""

    op_domain = "com.microsoft"

    def _run(self, states: Array, lengths: Array) -> tuple[Array, ...]:
        batch, sequence, width = states.shape
        assert lengths.dtype == np.int32
        real = np.arange(sequence) < lengths[:, None]
        places = np.arange(batch * sequence, dtype=np.int32).reshape(batch, sequence)
        offsets = np.concatenate([places[real], places[~real]]).reshape(batch, sequence)
        begins = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return states.reshape(-1, width)[places[real]], offsets, begins, lengths.max(keepdims=True)


class RestorePadding(OpRun):
    """[tokens, width] to [batch, sequence, width], zeros for padding."""

    op_domain = "com.microsoft"

    def _run(self, states: Array, offsets: Array) -> tuple[Array]:
        assert states.ndim == 2
        whole = np.zeros((offsets.size, states.shape[1]), states.dtype)
        whole[offsets.ravel()[: len(states)]] = states
        return (whole.reshape(*offsets.shape, -1),)


class PackedMultiHeadAttention(OpRun):
    """Attention of each text's tokens among themselves."""

    op_domain = "com.microsoft"

    def _run(
        self, query: Array, key: Array, value: Array, bias: Array | None, offsets: Array, begins: Array,
        num_heads: int | None = None, scale: float | None = None,
    ) -> tuple[Array]:  # fmt: skip
        assert query.shape == key.shape == value.shape
        assert query.ndim == 2
        assert all(each.dtype == np.int32 for each in (offsets, begins))
        assert begins.shape == (len(offsets) + 1,)
        assert begins[-1] == len(query)
        if bias is not None:
            query, key, value = (each + part for each, part in zip((query, key, value), np.split(bias, 3), strict=True))
        found = np.empty_like(query)
        for start, end in pairwise(begins):
            rows = slice(start, end)
            found[rows] = _attention(query[rows], key[rows], value[rows], num_heads or 0, scale)
        return (found,)


class MultiHeadAttention(OpRun):
    """Attention of padded texts, with what is added to scores, or with the number of each one's tokens."""

    op_domain = "com.microsoft"

    def _run(
        self, query: Array, key: Array, value: Array, bias: Array | None = None, padding: Array | None = None,
        added: Array | None = None, num_heads: int | None = None, scale: float | None = None,
    ) -> tuple[Array]:  # fmt: skip
        if padding is not None:
            assert added is None
            assert padding.dtype == np.int32
            assert padding.shape == (len(query),)
            added = np.where(np.arange(key.shape[1]) < padding[:, None], 0, -np.inf)[:, None, None, :]
        if bias is not None:
            query, key, value = (each + part for each, part in zip((query, key, value), np.split(bias, 3), strict=True))
        masks = [None] * len(query) if added is None else list(added)
        rows = zip(query, key, value, masks, strict=True)
        return (np.stack([_attention(*row[:3], num_heads or 0, scale, row[3]) for row in rows]),)


def _attention(
    query: Array, key: Array, value: Array, heads: int, scale: float | None, added: Array | None = None
) -> Array:
    """Of one text: [queries, width], [tokens, width] twice; sums in float32, as the kernels have them."""
    size = query.shape[1] // heads
    parts = [each.astype(np.float32).reshape(len(each), heads, size).swapaxes(0, 1) for each in (query, key, value)]
    scores = parts[0] @ parts[1].swapaxes(1, 2) * (scale or 1 / math.sqrt(size))
    scores = scores if added is None else scores + added.astype(np.float32)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    found: Array = (weights @ parts[2]).swapaxes(0, 1).reshape(len(query), -1).astype(query.dtype)
    return found


class SkipLayerNormalization(OpRun):
    """LayerNorm of a sum."""

    op_domain = "com.microsoft"

    def _run(
        self, states: Array, skip: Array, gamma: Array, beta: Array, bias: Array | None = None,
        epsilon: float | None = None,
    ) -> tuple[Array | None, ...]:  # fmt: skip
        total = states.astype(np.float32) + skip + (0 if bias is None else bias)
        centred = total - total.mean(axis=-1, keepdims=True)
        found = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + (epsilon or 0.0)) * gamma + beta
        empty = np.empty(0, np.float32)
        return found.astype(states.dtype), empty, empty, total.astype(states.dtype)


class Gelu(OpRun):
    """GELU by the error function."""

    op_domain = "com.microsoft"

    def _run(self, states: Array, approximate: str | None = None) -> tuple[Array]:
        # The argument is that of the standard's operator of this name, for which the evaluator takes it.
        return (_gelu(states),)


class BiasGelu(OpRun):
    """The same of a sum."""

    op_domain = "com.microsoft"

    def _run(self, states: Array, bias: Array) -> tuple[Array]:
        return (_gelu(states + bias),)


def _gelu(states: Array) -> Array:
    wide = states.astype(np.float32)
    found: Array = wide * 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
    return found.astype(states.dtype)


class GatherElements(OpRun):
    """The standard operator, since onnx's own evaluator fails beyond 64 columns."""

    def _run(self, data: Array, index: Array, axis: int | None = None) -> tuple[Array]:
        return (np.take_along_axis(data, index, axis or 0),)


OPERATORS = (
    RemovePadding, RestorePadding, PackedMultiHeadAttention, MultiHeadAttention, SkipLayerNormalization, Gelu,
    BiasGelu, GatherElements,
)  # fmt: skip


def evaluate(model: bytes, outputs: list[str], feed: dict[str, Any]) -> list[Array]:
    """The outputs of a graph with those operators."""
    found = ReferenceEvaluator(onnx.load_model_from_string(model), new_ops=list(OPERATORS)).run(outputs, feed)
    assert isinstance(found, list)
    return found
