"""Models of any shape with random weights, and tokenizers made up for them: Hugging Face folders for measuring.

    python benchmarks/random_models.py FOLDER bert VOCAB LAYERS HIDDEN HEADS FFN

A program as well, so that what measures stays small.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import pre_tokenizers

POSITIONS = 512
# The words that texts are made of.
WORDS = [f"word{number}" for number in range(200)]


def make(folder: Path, family: str, vocab: int, layers: int, hidden: int, heads: int, ffn: int) -> None:
    """A classifier of two labels, of the family bert or roberta."""
    tokenizer = _wordpiece(vocab) if family == "bert" else _byte_pairs(vocab)
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    shape: dict[str, Any] = {
        "vocab_size": vocab, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": ffn,
    }  # fmt: skip
    torch.manual_seed(0)
    if family == "bert":
        config: transformers.PretrainedConfig = transformers.BertConfig(max_position_embeddings=POSITIONS, **shape)
    else:
        # The first two rows of the position table are no positions.
        config = transformers.RobertaConfig(
            max_position_embeddings=POSITIONS + 2, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
            **shape,
        )  # fmt: skip
    kind: Any = transformers.AutoModelForSequenceClassification
    kind.from_config(config).save_pretrained(folder)


def _wordpiece(vocab: int) -> dict[str, Any]:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *WORDS]
    pieces += [f"other{number}" for number in range(vocab - len(pieces))]
    model = {
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100, "vocab": {piece: number for number, piece in enumerate(pieces)},
    }  # fmt: skip
    return _tokenizer(model, special, "[CLS]", "[SEP]", {"type": "BertPreTokenizer"})


def _byte_pairs(vocab: int) -> dict[str, Any]:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces += [f"other{number}" for number in range(vocab - len(pieces))]
    model = {"type": "BPE", "vocab": {piece: number for number, piece in enumerate(pieces)}, "merges": []}
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return _tokenizer(model, special, "<s>", "</s>", split)


def _tokenizer(
    model: dict[str, Any], special: list[str], begin: str, end: str, split: dict[str, Any]
) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    text = [{"SpecialToken": {"id": begin, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    closed = [*text, {"SpecialToken": {"id": end, "type_id": 0}}]
    both = [*closed, {"Sequence": {"id": "B", "type_id": 0}}, {"SpecialToken": {"id": end, "type_id": 0}}]
    ids = {name: {"id": name, "ids": [special.index(name)], "tokens": [name]} for name in (begin, end)}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": number, "content": name, **plain} for number, name in enumerate(special)],
        "normalizer": None, "pre_tokenizer": split,
        "post_processor": {"type": "TemplateProcessing", "single": closed, "pair": both, "special_tokens": ids},
        "decoder": None, "model": model,
    }  # fmt: skip


if __name__ == "__main__":
    make(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
