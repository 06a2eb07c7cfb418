"""Arithmetic of shapes: parameters, FLOPs, bytes. No weights are read and no framework is imported.

Formulas: parameters as in Devlin et al. 2018 (arXiv:1810.04805) counted layer by layer; FLOPs as two per
multiply-add of every matrix product, biases and element-wise work left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgebert.families import Family
from edgebert.tasks import Task

# What one weight takes in each precision; int8 keeps biases and LayerNorm in fp32, see `weight_bytes`.
_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}


@dataclass(frozen=True)
class Shape:
    """Everything that the size of an encoder depends on.

    ``labels`` 0 means no classification head, ``guesses`` a head that guesses words, and ``embedding`` 0 that the
    tables are as wide as the hidden states.
    """

    layers: int
    hidden: int
    heads: int
    ffn: int
    vocab: int
    positions: int = 512
    types: int = 2
    pooler: bool = True
    dense_in_head: bool = False
    labels: int = 0
    embedding: int = 0
    guesses: bool = False

    @property
    def table_width(self) -> int:
        """How wide the embedding tables are."""
        return self.embedding or self.hidden

    @property
    def projected(self) -> bool:
        """Whether a Linear widens the embeddings to the hidden states (electra)."""
        return self.table_width != self.hidden


def shape_of(config: Mapping[str, Any], family: Family, task: Task, labels: int = 0) -> Shape:
    """The shape that a Hugging Face ``config.json`` describes, with the head of a task for ``labels`` classes."""
    dense = task.head == "sentence" and family.dense_in_head
    return Shape(
        layers=int(config[family.layers_key]),
        hidden=int(config[family.hidden_key]),
        heads=int(config[family.heads_key]),
        ffn=int(config[family.ffn_key]),
        vocab=int(config["vocab_size"]),
        positions=int(config["max_position_embeddings"]),
        types=int(config.get("type_vocab_size", 2)) if family.layers_key == "num_hidden_layers" else 0,
        # A head over tokens, or with a dense layer of its own, has no use for the pooler.
        pooler=family.pooler and task.head in ("sentence", "none") and not dense,
        dense_in_head=dense,
        # A head that points has a row for each of its outputs.
        labels=len(task.outputs) if task.head == "span" else labels,
        guesses=task.head == "vocabulary",
        embedding=int(config[family.embedding_key]) if family.embedding_key else 0,
    )


def with_layers(shape: Shape, layers: int) -> Shape:
    """The same shape at another depth."""
    return replace(shape, layers=layers)


def matrices(shape: Shape) -> int:
    """Weights in embedding tables and Linear matrices: what integer precisions store as integers."""
    h, f, e = shape.hidden, shape.ffn, shape.table_width
    tables = (shape.vocab + shape.positions + shape.types) * e + int(shape.projected) * e * h
    dense = h * h * (int(shape.pooler) + int(shape.dense_in_head))
    # The matrix that makes words of this is the table of words itself.
    dense += int(shape.guesses) * h * e
    return tables + shape.layers * (4 * h * h + 2 * h * f) + dense + shape.labels * h


def parameters(shape: Shape) -> int:
    """All parameters, exact to the unit: matrices, biases, LayerNorms."""
    h, f = shape.hidden, shape.ffn
    dense = int(shape.pooler) + int(shape.dense_in_head)
    embeddings = 2 * shape.table_width + int(shape.projected) * h
    head = int(shape.guesses) * (3 * shape.table_width + shape.vocab)
    return matrices(shape) + embeddings + head + shape.layers * (4 * h + f + h + 4 * h) + dense * h + shape.labels


def flops_per_token(shape: Shape, seq_len: int) -> int:
    """FLOPs of the encoder for one token of a text of ``seq_len`` tokens, attention included."""
    h, f = shape.hidden, shape.ffn
    widening = int(shape.projected) * shape.table_width * h
    return 2 * (widening + shape.layers * (4 * h * h + 2 * h * f + 2 * seq_len * h))


def weight_bytes(shape: Shape) -> dict[str, int]:
    """Bytes of the weights by precision (the graph itself and scales come on top, well under 1 MB).

    A masked model's table of words counts twice: the graph holds one to read words and one, turned, to guess them.
    """
    twice = int(shape.guesses) * shape.vocab * shape.table_width
    inside = matrices(shape) + twice
    rest = 4 * (parameters(shape) + twice - inside)
    sizes = {name: inside * width + rest for name, width in _BYTES.items()}
    return {**sizes, "fp16": 2 * (parameters(shape) + twice)}
