"""Shapes of published encoders by their hub names: what they are, without asking the hub.

The sources are the models' own ``config.json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from edgebert.families import FAMILIES
from edgebert.shaping import sizes
from edgebert.shaping.sizes import Shape
from edgebert.tasks import Task


@dataclass(frozen=True)
class Known:
    """A published encoder: its family and the numbers that its size depends on, as in its config.

    ``embedding`` is None where the family's config has no such number.
    """

    family: str
    layers: int
    hidden: int
    heads: int
    ffn: int
    vocab: int
    positions: int = 512
    types: int = 2
    embedding: int | None = None

    def shape(self, task: Task, labels: int) -> Shape:
        """The encoder with the head of a task for so many labels."""
        family = FAMILIES[self.family]
        config = {
            family.layers_key: self.layers, family.hidden_key: self.hidden, family.heads_key: self.heads,
            family.ffn_key: self.ffn, "vocab_size": self.vocab, "max_position_embeddings": self.positions,
            "type_vocab_size": self.types,
        }  # fmt: skip
        if family.embedding_key:
            config[family.embedding_key] = self.hidden if self.embedding is None else self.embedding
        return sizes.shape_of(config, family, task, labels if task.has_labels else 0)


def _bert(layers: int, hidden: int, vocab: int = 30_522, head: int = 64) -> Known:
    return Known("bert", layers, hidden, hidden // head, 4 * hidden, vocab)


def _roberta(family: str, layers: int, hidden: int, vocab: int) -> Known:
    # Two rows of the table of positions are none.
    return Known(family, layers, hidden, hidden // 64, 4 * hidden, vocab, positions=514, types=1)


def _google() -> Iterator[tuple[str, Known]]:
    """The 24 of Turc et al. 2019, "Well-Read Students Learn Better" (arXiv:1908.08962)."""
    for layers in (2, 4, 6, 8, 10, 12):
        for hidden in (128, 256, 512, 768):
            yield f"google/bert_uncased_L-{layers}_H-{hidden}_A-{hidden // 64}", _bert(layers, hidden)


_DISTILBERT = replace(_bert(6, 768), family="distilbert")

KNOWN: Mapping[str, Known] = {
    **dict(_google()),
    "prajjwal1/bert-tiny": _bert(2, 128),
    "prajjwal1/bert-mini": _bert(4, 256),
    "prajjwal1/bert-small": _bert(4, 512),
    "prajjwal1/bert-medium": _bert(8, 512),
    "google-bert/bert-base-uncased": _bert(12, 768),
    "google-bert/bert-base-cased": _bert(12, 768, 28_996),
    "google-bert/bert-base-multilingual-cased": _bert(12, 768, 119_547),
    "google-bert/bert-large-uncased": _bert(24, 1024),
    "google-bert/bert-large-cased": _bert(24, 1024, 28_996),
    "distilbert/distilbert-base-uncased": _DISTILBERT,
    "distilbert/distilbert-base-cased": replace(_DISTILBERT, vocab=28_996),
    "distilbert/distilbert-base-multilingual-cased": replace(_DISTILBERT, vocab=119_547),
    "distilbert/distilroberta-base": _roberta("roberta", 6, 768, 50_265),
    "nreimers/MiniLM-L3-H384-uncased": _bert(3, 384, head=32),
    "nreimers/MiniLM-L6-H384-uncased": _bert(6, 384, head=32),
    "microsoft/MiniLM-L12-H384-uncased": _bert(12, 384, head=32),
    "sentence-transformers/all-MiniLM-L6-v2": _bert(6, 384, head=32),
    "sentence-transformers/all-MiniLM-L12-v2": _bert(12, 384, head=32),
    "huawei-noah/TinyBERT_General_4L_312D": Known("bert", 4, 312, 12, 1200, 30_522),
    "huawei-noah/TinyBERT_General_6L_768D": _bert(6, 768),
    "FacebookAI/roberta-base": _roberta("roberta", 12, 768, 50_265),
    "FacebookAI/roberta-large": _roberta("roberta", 24, 1024, 50_265),
    "FacebookAI/xlm-roberta-base": _roberta("xlm-roberta", 12, 768, 250_002),
    "FacebookAI/xlm-roberta-large": _roberta("xlm-roberta", 24, 1024, 250_002),
    "almanach/camembert-base": _roberta("camembert", 12, 768, 32_005),
    "google/electra-small-discriminator": Known("electra", 12, 256, 4, 1024, 30_522, embedding=128),
    "google/electra-base-discriminator": Known("electra", 12, 768, 12, 3072, 30_522),
    "google/electra-large-discriminator": Known("electra", 24, 1024, 16, 4096, 30_522),
}


def known_named(name: str) -> Known | None:
    """The published encoder of that hub name, with or without its owner; None where it is another."""
    # The oldest names were the hub's own and had no owner: bert-base-uncased.
    return next((known for full, known in KNOWN.items() if name in (full, full.partition("/")[2])), None)
