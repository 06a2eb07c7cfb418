"""What differs between model families, as data. No ``if family ==`` stands anywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

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


Units = Literal["hidden", "heads", "ffn", "embedding"]


@dataclass(frozen=True)
class Part:
    """A module with parameters of its own, by what it makes and what it reads.

    A Linear has rows that make units and columns that read some, its bias goes with the rows; a LayerNorm makes what
    it reads. A table (``table``: of embeddings, or of the words that a masked model chooses from, which is the same
    one) has columns that are units, not readers of them. None is no units that a model's width changes: words,
    positions, labels. ``guesses``: what it makes is read by the table of words.
    """

    makes: Units | None
    reads: Units | None = None
    table: bool = False
    guesses: bool = False


_WORDS = Part("embedding", table=True)
_HEAD, _DENSE = Part(None, "hidden"), Part("hidden", "hidden")
_ATTENTION, _FFN = (Part("heads", "hidden"), Part("hidden", "heads")), (Part("ffn", "hidden"), Part("hidden", "ffn"))
_GUESS = Part("embedding", "hidden"), Part("embedding", guesses=True)
# By the end of the module's name, the longest that fits.
_BERT_PARTS: Mapping[str, Part] = {
    "word_embeddings": _WORDS,
    "position_embeddings": _WORDS,
    "token_type_embeddings": _WORDS,
    "embeddings.LayerNorm": Part("embedding"),
    "embeddings_project": Part("hidden", "embedding"),
    "attention.self.query": _ATTENTION[0],
    "attention.self.key": _ATTENTION[0],
    "attention.self.value": _ATTENTION[0],
    "attention.output.dense": _ATTENTION[1],
    "attention.output.LayerNorm": Part("hidden"),
    "intermediate.dense": _FFN[0],
    "output.dense": _FFN[1],
    "output.LayerNorm": Part("hidden"),
    "pooler.dense": _DENSE,
    "classifier": _HEAD,
    "classifier.dense": _DENSE,
    "classifier.out_proj": _HEAD,
    "qa_outputs": _HEAD,
    "cls.predictions": Part(None),
    "cls.predictions.transform.dense": _GUESS[0],
    "cls.predictions.transform.LayerNorm": _GUESS[1],
    "cls.predictions.decoder": _WORDS,
    "cls.seq_relationship": _HEAD,
    "lm_head": Part(None),
    "lm_head.dense": _GUESS[0],
    "lm_head.layer_norm": _GUESS[1],
    "lm_head.decoder": _WORDS,
    "generator_predictions.dense": _GUESS[0],
    "generator_predictions.LayerNorm": _GUESS[1],
    "generator_lm_head": _WORDS,
    "discriminator_predictions.dense": _DENSE,
    "discriminator_predictions.dense_prediction": _HEAD,
}
_DISTILBERT_PARTS: Mapping[str, Part] = {
    "word_embeddings": _WORDS,
    "position_embeddings": _WORDS,
    "embeddings.LayerNorm": Part("embedding"),
    "attention.q_lin": _ATTENTION[0],
    "attention.k_lin": _ATTENTION[0],
    "attention.v_lin": _ATTENTION[0],
    "attention.out_lin": _ATTENTION[1],
    "sa_layer_norm": Part("hidden"),
    "ffn.lin1": _FFN[0],
    "ffn.lin2": _FFN[1],
    "output_layer_norm": Part("hidden"),
    "pre_classifier": _DENSE,
    "classifier": _HEAD,
    "qa_outputs": _HEAD,
    "vocab_transform": _GUESS[0],
    "vocab_layer_norm": _GUESS[1],
    "vocab_projector": _WORDS,
}


@dataclass(frozen=True)
class Family:
    """One Hugging Face ``model_type`` and the names its checkpoints use.

    ``layer_prefix`` is where layer k's parameters live, below the optional ``base_prefix`` of a model
    with a head: ``bert.encoder.layer.3.`` is ``base_prefix`` + ``layer_prefix`` + ``3.``.
    ``word_table`` and ``position_table`` are how the embedding tables' names end. They are as wide as
    ``embedding_key`` says where there is one (else as the hidden states), and ``projection`` names the weights
    that widen them.
    ``position_offset`` is how many rows of the position table are no positions (roberta: padding).
    ``parts`` are its modules that have parameters, by the ends of their names.
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
    parts: Mapping[str, Part] = field(default_factory=lambda: _BERT_PARTS)

    def part(self, module: str) -> Part | None:
        """What the module of that name is; None where it is unknown."""
        words = module.split(".")
        ends = (".".join(words[start:]) for start in range(len(words)))
        return next((self.parts[end] for end in ends if end in self.parts), None)

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
            parts=_DISTILBERT_PARTS,
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
