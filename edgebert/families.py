"""What differs between model families, as data. No ``if family ==`` stands anywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgebert.errors import InputError


@dataclass(frozen=True)
class TokenizerParts:
    """The types of each part of ``tokenizer.json`` that a family's own tokenizers are made of.

    None of them takes a regular expression from the file, which would be a program: ``Replace`` is read with plain
    strings alone.
    """

    model: str
    normalizer: tuple[str, ...]
    pre_tokenizer: tuple[str, ...]
    post_processor: tuple[str, ...]
    decoder: tuple[str, ...]


WORDPIECE = TokenizerParts(
    model="WordPiece",
    normalizer=("BertNormalizer", "Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"),
    pre_tokenizer=("BertPreTokenizer", "Sequence", "Whitespace", "WhitespaceSplit", "Punctuation"),
    post_processor=("TemplateProcessing", "BertProcessing"),
    decoder=("WordPiece",),
)
BYTE_LEVEL_BPE = TokenizerParts(
    model="BPE",
    normalizer=("Sequence", "NFC", "NFKC"),
    pre_tokenizer=("ByteLevel", "Sequence"),
    post_processor=("RobertaProcessing", "TemplateProcessing", "ByteLevel", "Sequence"),
    decoder=("ByteLevel",),
)
# SentencePiece's unigram model (Kudo 2018), as its converters write it.
UNIGRAM = TokenizerParts(
    model="Unigram",
    normalizer=("Precompiled", "Replace", "Sequence", "NFC", "NFKC", "Lowercase", "Strip"),
    pre_tokenizer=("Metaspace", "WhitespaceSplit", "Sequence"),
    post_processor=("TemplateProcessing", "RobertaProcessing"),
    decoder=("Metaspace",),
)


@dataclass(frozen=True)
class Family:
    """One Hugging Face ``model_type`` and the names its checkpoints use.

    ``layer_prefix`` is where layer k's parameters live, below the optional ``base_prefix`` of a model
    with a head: ``bert.encoder.layer.3.`` is ``base_prefix`` + ``layer_prefix`` + ``3.``.
    ``word_table`` and ``position_table`` are how the embedding tables' names end. They are as wide as
    ``embedding_key`` says where there is one (else as the hidden states), and ``projection`` names the weights
    that widen them.
    ``position_offset`` is how many rows of the position table are no positions (roberta: padding).
    """

    name: str
    base_prefix: str
    layer_prefix: str
    layers_key: str = "num_hidden_layers"
    hidden_key: str = "hidden_size"
    heads_key: str = "num_attention_heads"
    ffn_key: str = "intermediate_size"
    activation_key: str = "hidden_act"
    embedding_key: str | None = None
    projection: str | None = None
    token_types: bool = True
    word_table: str = "embeddings.word_embeddings.weight"
    position_table: str = "embeddings.position_embeddings.weight"
    position_offset: int = 0
    pooler: bool = True
    # The rows of the head on top of [CLS] that have a bias and a square weight, before the classifier itself.
    dense_in_head: bool = False
    mask_token: str = "[MASK]"
    tokenizer: TokenizerParts = WORDPIECE
    tokenizer_files: tuple[str, ...] = (
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.txt",
    )

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the graph's inputs, in order."""
        names = ("input_ids", "attention_mask")
        return (*names, "token_type_ids") if self.token_types else names


_ROBERTA = Family(
    "roberta",
    base_prefix="roberta.",
    layer_prefix="encoder.layer.",
    token_types=False,
    position_offset=2,
    dense_in_head=True,
    mask_token="<mask>",
    tokenizer=BYTE_LEVEL_BPE,
    tokenizer_files=(
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.json",
        "merges.txt",
    ),
)
# RoBERTa's model, parameter names included, over SentencePiece's tokenizer.
_XLM_ROBERTA = replace(
    _ROBERTA,
    name="xlm-roberta",
    tokenizer=UNIGRAM,
    tokenizer_files=(
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "sentencepiece.bpe.model",
    ),
)

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family("bert", base_prefix="bert.", layer_prefix="encoder.layer."),
        Family(
            "distilbert",
            base_prefix="distilbert.",
            layer_prefix="transformer.layer.",
            layers_key="n_layers",
            hidden_key="dim",
            heads_key="n_heads",
            ffn_key="hidden_dim",
            activation_key="activation",
            token_types=False,
            pooler=False,
            dense_in_head=True,
        ),
        _ROBERTA,
        _XLM_ROBERTA,
        replace(_XLM_ROBERTA, name="camembert"),
        Family(
            "electra",
            base_prefix="electra.",
            layer_prefix="encoder.layer.",
            embedding_key="embedding_size",
            projection="embeddings_project.weight",
            pooler=False,
            dense_in_head=True,
        ),
    )
}


def family_of(config: Mapping[str, Any], where: str) -> Family:
    """The family that a Hugging Face ``config.json`` names. Raises InputError with the list of known ones."""
    name = config.get("model_type")
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        raise InputError(f"unsupported model family {name!r}", where, f"edgebert reads {', '.join(FAMILIES)}")
    return family
