"""Tiny models, texts and data made on the spot: real files that load in transformers, and take no time."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from once import once, once_traced
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from edgebert import stage
from edgebert.artifact import Artifact
from edgebert.building.calibration import calibration_feeds, calibration_texts
from edgebert.exporters.calibrate import measure_ranges
from edgebert.exporters.graph import Template, build_graph, trace
from edgebert.exporters.precision import PrecisionConfig, set_precision
from edgebert.exporters.quantize import DynamicConfig, quantize_dynamic
from edgebert.exporters.signature import PORTABLE, GraphConfig
from edgebert.exporters.static import StaticConfig, quantize_static
from edgebert.serving.tokens import TextTokenizer
from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.shaping.depth import TruncateConfig, truncate

FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert", "electra")
TASKS = ("text-classification", "feature-extraction", "token-classification", "fill-mask", "question-answering")
LABELS = ("no", "maybe", "yes")
TAGS = ("O", "B-thing", "I-thing", "B-time")
HIDDEN, HEADS, FFN, MAX_LENGTH = 32, 4, 64, 64
# Electra's tables are narrower than its hidden states.
EMBEDDING = 16


@dataclass(frozen=True)
class Size:
    """How large a model is; the least that is still a model of its family."""

    hidden: int = HIDDEN
    heads: int = HEADS
    ffn: int = FFN
    max_length: int = MAX_LENGTH
    embedding: int = EMBEDDING

    @property
    def spread(self) -> float:
        """Standard deviation of weights with which every layer changes the answer, however wide it is."""
        return 0.3 * math.sqrt(HIDDEN / self.hidden)


TINY = Size()

# The labels that each task's head tells apart, and transformers' class for it.
HEADS_OF = {"text-classification": LABELS, "token-classification": TAGS}
AUTO_CLASSES = {
    "text-classification": "AutoModelForSequenceClassification",
    "feature-extraction": "AutoModel",
    "token-classification": "AutoModelForTokenClassification",
    "fill-mask": "AutoModelForMaskedLM",
    "question-answering": "AutoModelForQuestionAnswering",
}

# What the slower tests go through: each family as a classifier, and bert over each task. `test_families.py` has
# every pair.
PAIRS = tuple((f, t) for f in FAMILIES for t in TASKS if t == TASKS[0] or f == FAMILIES[0])

# The last of them decide the labels of `labelled`.
# fmt: off
WORDS = (
    "a", "an", "the", "of", "to", "in", "and", "is", "was", "it", "that", "this", "film", "story",
    "music", "scene", "actor", "plot", "ending", "joke", "song", "city", "night", "day", "road", "house",
    "river", "light", "water", "fire", "stone", "paper", "glass", "table", "garden", "market", "winter",
    "summer", "morning", "good", "bad", "dull", "fine", "slow", "quick", "long", "short", "warm", "cold",
    "bright", "dark", "old", "new", "small", "large", "quiet", "loud", "simple", "strange", "sees",
    "hears", "finds", "leaves", "opens", "closes", "follows", "forgets", "remembers", "begins", "ends",
    "turns", "waits", "sings", "falls",
)
# fmt: on

# For programs that tests start: the most memory they held. Not getrusage, where a child begins with its parent's.
PEAK = """
from pathlib import Path
def peak_bytes():
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
"""

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ROBERTA_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_ROBERTAS: dict[str, Any] = {
    "roberta": transformers.RobertaConfig,
    "xlm-roberta": transformers.XLMRobertaConfig,
    "camembert": transformers.CamembertConfig,
}


def checkpoint(
    folder: Path,
    family: str = "bert",
    task: str = "text-classification",
    layers: int = 3,
    labels: Sequence[str] | None = None,
    seed: int = 0,
    *,
    fresh: bool = False,
    problem: str | None = None,
    size: Size = TINY,
    words: Sequence[str] = WORDS,
) -> Path:
    """A Hugging Face folder with random weights, large enough that every layer changes the answer.

    Biases and LayerNorms are random too, as after training; ``fresh`` leaves them as a new model has
    them: all biases zero, all LayerNorms one. A sentence encoder pools by normalized means. ``problem`` is a
    classifier's problem_type, ``words`` are tokens of their own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer_of(family, words)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(folder / "tokenizer_config.json", _tokenizer_config(family, size))
    names = dict(enumerate(labels or HEADS_OF.get(task, ())))
    heads: dict[str, Any] = {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    heads |= {"problem_type": problem} if problem else {}
    config = config_of(family, tokenizer.get_vocab_size(), layers, heads if names else {}, size)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = auto_class(task).from_config(config)
        if not fresh:
            _randomize_vectors(module)
    module.save_pretrained(folder)
    if task == "feature-extraction":
        _write_pooling(folder, size)
    return folder


def auto_class(task: str) -> Any:
    """transformers' class for a task."""
    return getattr(transformers, AUTO_CLASSES[task])


def config_of(
    family: str, vocab: int, layers: int, heads: dict[str, Any], size: Size = TINY
) -> transformers.PretrainedConfig:
    """A tiny model's config; ``heads`` holds the fields about labels."""
    if family == "distilbert":
        return transformers.DistilBertConfig(
            vocab_size=vocab, dim=size.hidden, n_layers=layers, n_heads=size.heads, hidden_dim=size.ffn,
            max_position_embeddings=size.max_length, initializer_range=size.spread, **heads,
        )  # fmt: skip
    shape = {
        "vocab_size": vocab, "hidden_size": size.hidden, "num_hidden_layers": layers, "num_attention_heads": size.heads,
        "intermediate_size": size.ffn, "initializer_range": size.spread, **heads,
    }  # fmt: skip
    if family == "bert":
        return transformers.BertConfig(max_position_embeddings=size.max_length, **shape)
    if family == "electra":
        return transformers.ElectraConfig(
            max_position_embeddings=size.max_length, embedding_size=size.embedding, **shape
        )
    # The first two rows of roberta's position table are no positions.
    made: transformers.PretrainedConfig = _ROBERTAS[family](
        max_position_embeddings=size.max_length + 2, type_vocab_size=1, pad_token_id=1, bos_token_id=0,
        eos_token_id=2, **shape,
    )  # fmt: skip
    return made


def _randomize_vectors(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)


def tokenizer_of(family: str, words: Sequence[str] = WORDS) -> Tokenizer:
    """A family's own kind of tokenizer."""
    if family == "roberta":
        return bpe(words)
    return unigram(words) if family in _ROBERTAS else wordpiece(words)


def wordpiece(words: Sequence[str] = WORDS) -> Tokenizer:
    """BERT's tokenizer over ``words``, with letters for everything else."""
    pieces = [*_BERT_SPECIAL, *words, *_LETTERS, *(f"##{letter}" for letter in _LETTERS), *"0123456789.,!?'-"]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(_BERT_SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]",
        "[CLS] $A [SEP] $B:1 [SEP]:1",
        [(word, vocabulary[word]) for word in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def bpe(words: Sequence[str] = WORDS) -> Tokenizer:
    """RoBERTa's tokenizer: byte-level, with merges for ``words``."""
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        for end in range(len(word)):
            merges["Ġ" + word[:end], word[end]] = None
    pieces = [*_ROBERTA_SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_ROBERTA_SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A </s>",
        "<s> $A </s> </s> $B </s>",
        [(word, vocabulary[word]) for word in ("<s>", "</s>")],
    )
    return tokenizer


def unigram(words: Sequence[str] = WORDS) -> Tokenizer:
    """XLM-RoBERTa's tokenizer: SentencePiece's pieces, with letters for everything that is no word."""
    whole = [(f"▁{word}", -float(len(word))) for word in dict.fromkeys(words)]
    letters = [(letter, -9.0) for letter in ("▁", *_LETTERS, *"0123456789.,!?'-")]
    pieces = [*((special, 0.0) for special in _ROBERTA_SPECIAL), *whole, *letters]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=_ROBERTA_SPECIAL.index("<unk>"), byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(charsmap(b"Z", b"z")), normalizers.Replace("``", "'"), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(list(_ROBERTA_SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A </s>",
        "<s> $A </s> </s> $B </s>",
        [(word, _ROBERTA_SPECIAL.index(word)) for word in ("<s>", "</s>")],
    )
    return tokenizer


def charsmap(one: bytes, other: bytes) -> bytes:
    """SentencePiece's map of characters that knows a single byte: a double-array trie, then what to put instead."""
    units = [0] * 512
    byte, leaf = one[0], 256
    # Label, whether it ends a key, and the distance to the leaf; the leaf holds the place of the replacement.
    units[byte] = byte | 1 << 8 | (byte ^ leaf) << 10
    units[leaf] = 1 << 31
    trie = struct.pack(f"<{len(units)}I", *units)
    return struct.pack("<I", len(trie)) + trie + other + b"\0"


def _tokenizer_config(family: str, size: Size) -> dict[str, Any]:
    if family in _ROBERTAS:
        begin, pad, end, unknown, mask = _ROBERTA_SPECIAL
        special = {"bos_token": begin, "cls_token": begin, "eos_token": end, "sep_token": end}
    else:
        pad, unknown, begin, end, mask = _BERT_SPECIAL
        special = {"cls_token": begin, "sep_token": end}
    special |= {"pad_token": pad, "unk_token": unknown, "mask_token": mask}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": size.max_length,
        "model_input_names": ["input_ids", "attention_mask", *(["token_type_ids"] * (family in ("bert", "electra")))],
        **special,
    }


def _write_pooling(folder: Path, size: Size) -> None:
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds)
    ]
    _write(folder / "modules.json", modules)
    modes = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": size.hidden, **modes})
    _write(folder / "sentence_bert_config.json", {"max_seq_length": size.max_length, "do_lower_case": False})


def texts(n: int, seed: int = 0, longest: int = 24, words: Sequence[str] = WORDS) -> list[str]:
    """``n`` texts of 1 to ``longest`` words."""
    generator = random.Random(seed)
    return [" ".join(generator.choices(words, k=generator.randint(1, longest))) for _ in range(n)]


def labelled(folder: Path, rows: int = 60, labels: Sequence[str] = LABELS) -> Path:
    """Data with ``rows`` rows in train and half as many in dev and test; one word decides the label."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate((("train", rows), ("dev", rows // 2), ("test", rows // 2))):
        lines = []
        for index, text in enumerate(texts(count, 1000 + seed, longest=9, words=WORDS[:60])):
            which = index % len(labels)
            row = {"text": f"{WORDS[-1 - which]} {text}", "label": labels[which]}
            lines.append(json.dumps(row) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines), "utf-8")
    return folder


def write_parts(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Data of these rows in train, and a fourth of them, the last, in dev and test."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, part in (("train", rows), ("dev", rows[-len(rows) // 4 :]), ("test", rows[-len(rows) // 4 :])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), "utf-8")
    return folder


def _write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", "utf-8")


class Exports:
    """Artifacts below ``folder``, each made once a session; one trace serves all of a family and task.

    Depths above three have checkpoints and traces of their own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.templates: dict[tuple[str, str, int], Template] = {}

    def template(self, family: str, task: str, layers: int = 3) -> Template:
        if (family, task, layers) not in self.templates:
            # Fresh weights, equal among themselves: what the trace merges or folds away shows in every test.
            name = f"{family}-{task}-{layers}-fresh"
            folder = once(self.folder / name, lambda out: checkpoint(out, family, task, layers, fresh=True))
            self.templates[family, task, layers] = once_traced(
                self.folder / f"{name}.trace", lambda: trace(open_checkpoint(str(folder)))
            )
        return self.templates[family, task, layers]

    def checkpoint(self, family: str, task: str, layers: int = 3) -> Artifact:
        def make(out: Path) -> object:
            if layers >= 3:
                return checkpoint(out, family, task, layers, seed=1)
            config = TruncateConfig(tuple(range(layers)))
            return stage.run("truncate", truncate, self.checkpoint(family, task), config, out)

        return open_checkpoint(str(once(self.folder / f"{family}-{task}-{layers}", make)))

    def artifact(
        self, family: str, task: str, layers: int = 3, precision: str = "fp32", graph: GraphConfig = PORTABLE
    ) -> Artifact:
        def make(out: Path) -> object:
            if precision == "fp32":
                build = partial(build_graph, template=self.template(family, task, max(3, layers)))
                return stage.run("graph", build, self.checkpoint(family, task, layers), graph, out)
            source = self.artifact(family, task, layers, graph=graph)
            if precision == "bf16":
                return stage.run("precision", set_precision, source, PrecisionConfig("openvino", precision), out)
            if precision == "int8-static":
                asked = calibration_texts(None, texts(40, seed=9))
                static = StaticConfig.for_this_cpu(precision, "openvino", len(asked))
                feeds = calibration_feeds(TextTokenizer(source), asked, graph.fixed)
                ranges = measure_ranges(source, feeds)
                return stage.run("quantize-static", partial(quantize_static, ranges=ranges), source, static, out)
            return stage.run("quantize", quantize_dynamic, source, DynamicConfig.for_this_cpu(precision), out)

        return Artifact.open(once(self.folder / f"{family}-{task}-{layers}-{precision}{graph.suffix}", make))
