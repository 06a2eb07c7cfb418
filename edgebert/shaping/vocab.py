"""Vocabulary: which tokens of a checkpoint stay. Rows of the embedding are moved, the tokenizer rewritten.

On the texts that the tokens were chosen by, the smaller model computes what the whole one does, bit for bit:
its tokenizer cuts them into the same pieces. Why that holds: WordPiece takes the longest piece that fits, and
no longer one is added; byte-level BPE makes the earliest merge that it can, and every merge that it made
there stays (Wu et al. 2016, arXiv:1609.08144; Sennrich et al. 2016, arXiv:1508.07909). What other texts lose
is measured on those that are given for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from edgebert.artifact import Artifact, Manifest
from edgebert.errors import InputError
from edgebert.families import FAMILIES, Family
from edgebert.shaping.checkpoint import copy_companions, read_json
from edgebert.shaping.depth import read_weights
from edgebert.shaping.stored import WEIGHTS, weight_files
from edgebert.strict_json import parse_json
from edgebert.tokenizer import TOKENIZER, id_slots, open_tokenizer

if TYPE_CHECKING:
    import torch

Document = dict[str, Any]

_TEXTS_AT_ONCE = 1000
# The heads of masked language models, whose rows are tokens too.
_TOKEN_HEADS = re.compile(r"(^|\.)(predictions|lm_head|generator_lm_head|vocab_projector)\.")
_TOKEN_ID = re.compile(r"\w+_token_id")


@dataclass(frozen=True)
class PruneConfig:
    """The data whose texts choose the tokens, by its digest."""

    data: str


@dataclass(frozen=True)
class Loss:
    """What pruning did: tokens and bytes of weights before and after, and how ``texts`` other texts fare.

    ``changed`` is the share of these that are cut into other tokens, ``unknown_before`` and ``unknown_after``
    the share of their tokens that are the unknown one. All three are null where there were no texts.
    """

    tokens_before: int
    tokens_after: int
    bytes_before: int
    bytes_after: int
    texts: int
    changed: float | None
    unknown_before: float | None
    unknown_after: float | None


def prune_vocab(
    source: Artifact, config: PruneConfig, out: Path, *, texts: Sequence[str], others: Sequence[str]
) -> Manifest:
    """Stage: keep the tokens that ``texts`` need, all single characters and the special tokens.

    The loss on the texts ``others`` is stated in the manifest's checks (``vocab``). Raises InputError for a
    tokenizer that is neither WordPiece nor byte-level BPE.
    """
    family, where = FAMILIES[source.manifest.architecture.family], str(source.path / TOKENIZER)
    before, document = open_tokenizer(source), parse_json(source.read(TOKENIZER), where)
    hf_config = read_json(source.path / "config.json")
    kept = _kept(document, before, hf_config, texts, where)
    new_ids = {old: new for new, old in enumerate(kept)}
    copy_companions(source, out)
    _rewrite_tokenizer(document, new_ids, out)
    _write_json(out / "config.json", {**_with_new_ids(hf_config, new_ids), "vocab_size": len(kept)})
    _write_weights(source, family, kept, out)
    after = Tokenizer.from_str(json.dumps(document))
    # Some checkpoints (MiniLM's among them) store a fixed padding and a truncation of their own.
    after.no_padding()
    after.no_truncation()
    if any(old != new for old, new in _both(before, after, kept, texts)):
        raise RuntimeError("pruning changed the tokens of a text that it was made for")
    loss = Loss(
        source.manifest.architecture.vocab, len(kept), _bytes(source.path), _bytes(out),
        len(others), *_changes(before, after, kept, others),
    )  # fmt: skip
    return replace(
        source.manifest,
        name=pruned_name(source),
        architecture=replace(source.manifest.architecture, vocab=len(kept)),
        checks={**source.manifest.checks, "vocab": asdict(loss)},
    )


def _bytes(folder: Path) -> int:
    """What a checkpoint's weights take on disk."""
    return sum(path.stat().st_size for path in weight_files(folder))


def pruned_name(source: Artifact) -> str:
    """What a checkpoint is called once its vocabulary is pruned."""
    return f"{source.manifest.name}-pruned"


# -- which tokens stay -------------------------------------------------------------------------------


def _kept(
    document: Document, tokenizer: Tokenizer, hf_config: Mapping[str, Any], texts: Sequence[str], where: str
) -> list[int]:
    """Old ids of the tokens that stay, in their old order."""
    model = document["model"]
    kept = {holder[key] for holder, key in id_slots(document)} | {value for _, value in _token_ids(hf_config)}
    kept |= {model["vocab"][model["unk_token"]]} if model.get("unk_token") is not None else set()
    # Where rows begin with other tokens than before, roberta would count positions from another place.
    kept |= set(range(int(hf_config.get("pad_token_id") or 0) + 1))
    used = {number for ids in _encoded(tokenizer, texts) for number in ids}
    match model["type"]:
        case "WordPiece":
            needed = _wordpieces(model, tokenizer, used, texts)
        case "BPE":
            _check_plain(model, where)
            needed = _byte_pairs(model, used)
        case other:
            remedy = "prune checkpoints with a WordPiece or byte-level BPE tokenizer"
            raise InputError(f"cannot prune a {other} tokenizer", where, remedy)
    return sorted(kept | used | set(needed))


def _wordpieces(model: Mapping[str, Any], tokenizer: Tokenizer, used: set[int], texts: Sequence[str]) -> Iterator[int]:
    """Single characters, alone and within a word; and what leads into a dead end.

    A word is unknown where the longest pieces that fit leave a rest that none fits. Without one of them
    shorter pieces might come through, and the word would be known.
    """
    vocab, prefix = model["vocab"], model.get("continuing_subword_prefix", "##")
    yield from (number for piece, number in vocab.items() if len(piece.removeprefix(prefix)) == 1)
    if vocab[model["unk_token"]] in used:
        for word in _words(tokenizer, texts):
            yield from (vocab[piece] for piece in _longest_first(word, vocab, prefix))


def _longest_first(word: str, vocab: Mapping[str, int], prefix: str) -> Iterator[str]:
    start = 0
    while start < len(word):
        head = prefix if start else ""
        ends = (end for end in range(len(word), start, -1) if head + word[start:end] in vocab)
        end = next(ends, None)
        if end is None:
            return
        yield head + word[start:end]
        start = end


def _words(tokenizer: Tokenizer, texts: Iterable[str]) -> set[str]:
    """The different words that a tokenizer sees in texts."""
    normalize = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
    cut = tokenizer.pre_tokenizer.pre_tokenize_str if tokenizer.pre_tokenizer else lambda text: [(text, (0, 0))]
    return {word for text in texts for word, _ in cut(normalize(text))}


def _check_plain(model: Mapping[str, Any], where: str) -> None:
    """Raise InputError for a BPE whose pieces come about in other ways than by merges of bytes."""
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "ignore_merges", "byte_fallback"):
        if model.get(name):
            raise InputError(f"cannot prune a BPE tokenizer with {name}", where, "leave its vocabulary as it is")


def _byte_pairs(model: Mapping[str, Any], used: set[int]) -> Iterator[int]:
    """All bytes, and everything that the used pieces are merged from."""
    vocab = model["vocab"]
    names = {number: piece for piece, number in vocab.items()}
    ranks = {pair: rank for rank, pair in enumerate(_pairs(model["merges"]))}
    yield from (number for piece, number in vocab.items() if len(piece) == 1)
    for number in used & names.keys():
        yield from (vocab[piece] for piece in _merged(names[number], ranks))


def _merged(piece: str, ranks: Mapping[tuple[str, str], int]) -> Iterator[str]:
    """Everything that arises while BPE makes a piece of its characters, as it does within any word."""
    parts = list(piece)
    while len(parts) > 1:
        pairs = list(pairwise(parts))
        at = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], len(ranks)))
        if pairs[at] not in ranks:
            return
        parts[at : at + 2] = ["".join(pairs[at])]
        yield parts[at]


def _pairs(merges: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Merges as pairs, from either way of writing them: ``"a b"`` or ``["a", "b"]``."""
    for merge in merges:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield left, right


# -- rewriting ---------------------------------------------------------------------------------------


def _rewrite_tokenizer(document: Document, new_ids: Mapping[int, int], out: Path) -> None:
    """Give ``tokenizer.json`` (also ``document`` itself) and the files beside it the new ids."""
    model = document["model"]
    for holder, key in id_slots(document):
        holder[key] = new_ids[holder[key]]
    model["vocab"] = {piece: new_ids[old] for piece, old in model["vocab"].items() if old in new_ids}
    if "merges" in model:
        vocab = model["vocab"]
        model["merges"] = [
            pair for pair in map(list, _pairs(model["merges"])) if {*pair, "".join(pair)} <= vocab.keys()
        ]
        _replace(out / "merges.txt", "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))
    names = {number: piece for piece, number in model["vocab"].items()}
    lines = (names.get(number, f"[unused{number}]") for number in range(max(names) + 1))
    _replace(out / "vocab.txt", "".join(f"{line}\n" for line in lines))
    _replace(out / "vocab.json", json.dumps(model["vocab"], ensure_ascii=False))
    _write_json(out / TOKENIZER, document)
    settings = read_json(out / "tokenizer_config.json") if (out / "tokenizer_config.json").is_file() else {}
    if added := settings.get("added_tokens_decoder"):
        settings["added_tokens_decoder"] = {
            str(new_ids[int(old)]): token for old, token in added.items() if int(old) in new_ids
        }
        _write_json(out / "tokenizer_config.json", settings)


def _token_ids(hf_config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for key, value in hf_config.items():
        if _TOKEN_ID.fullmatch(key) and type(value) is int and 0 <= value < hf_config["vocab_size"]:
            yield key, value


def _with_new_ids(hf_config: Mapping[str, Any], new_ids: Mapping[int, int]) -> Document:
    return {**hf_config, **{key: new_ids[value] for key, value in _token_ids(hf_config)}}


def _replace(path: Path, content: str) -> None:
    """Write a file anew where the checkpoint has one of that name."""
    if path.is_file():
        path.write_text(content, "utf-8", newline="\n")


def _write_json(path: Path, document: Document) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8", newline="\n")


def _write_weights(source: Artifact, family: Family, kept: list[int], out: Path) -> None:
    from safetensors.torch import save_file

    vocab = source.manifest.architecture.vocab
    tensors = read_weights(source)
    for name, tensor in tensors.items():
        if _rows_are_tokens(name, tensor, family, vocab):
            tensors[name] = tensor[kept]
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})


def _rows_are_tokens(name: str, tensor: torch.Tensor, family: Family, vocab: int) -> bool:
    of_tokens = name.endswith(family.word_table) or _TOKEN_HEADS.search(name) is not None
    return of_tokens and tensor.ndim > 0 and tensor.shape[0] == vocab


# -- what it cost ------------------------------------------------------------------------------------


def _encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    """Ids of each text, special ones included."""
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        yield from (encoding.ids for encoding in tokenizer.encode_batch(list(texts[start : start + _TEXTS_AT_ONCE])))


def _both(
    before: Tokenizer, after: Tokenizer, kept: Sequence[int], texts: Sequence[str]
) -> Iterator[tuple[list[int], list[int]]]:
    """Of each text the ids before and those after, the latter as the ids they were."""
    for old, new in zip(_encoded(before, texts), _encoded(after, texts), strict=True):
        yield old, [kept[number] for number in new]


def _changes(
    before: Tokenizer, after: Tokenizer, kept: Sequence[int], others: Sequence[str]
) -> tuple[float | None, float | None, float | None]:
    """Shares: of texts that are cut into other tokens, of tokens that are unknown before and after."""
    unknown = before.token_to_id(before.model.unk_token) if before.model.unk_token else None
    changed = 0
    counts = [[0, 0], [0, 0]]
    for pair in _both(before, after, kept, others):
        changed += pair[0] != pair[1]
        for count, ids in zip(counts, pair, strict=True):
            count[0] += ids.count(unknown) if unknown is not None else 0
            count[1] += len(ids)
    rates = [count[0] / count[1] if count[1] else None for count in counts]
    return changed / len(others) if others else None, rates[0], rates[1]
