"""The tokenizer of an artifact or checkpoint, looked through before the library that runs it sees it."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tokenizers import Tokenizer

from edgebert.artifact import Artifact
from edgebert.errors import InputError
from edgebert.families import TokenizerParts, family_of
from edgebert.strict_json import parse_json

TOKENIZER = "tokenizer.json"

_MAX_BYTES = 32_000_000
# The library takes time of the order of the square of it for each word.
_MAX_WORD = 1000
# What one character may be replaced by: the longest in use is an Arabic ligature's 33 bytes.
_MAX_REPLACEMENT = 200
_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
# Under which key a part of type Sequence holds its parts.
_MEMBERS = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}


def open_tokenizer(artifact: Artifact) -> Tokenizer:
    """The fast tokenizer, without padding and truncation of its own.

    Raises InputError where ``tokenizer.json`` is missing, is made of other parts than the family's own
    tokenizers, has ids beyond the vocabulary, or is refused by the library.
    """
    where = str(artifact.path / TOKENIZER)
    if not artifact.has(TOKENIZER):
        raise InputError(f"no {TOKENIZER}", str(artifact.path), "save the checkpoint with its fast tokenizer")
    content = artifact.read(TOKENIZER)
    if len(content) > _MAX_BYTES:
        raise InputError(f"file too large ({len(content)} bytes)", where, f"at most {_MAX_BYTES} are read")
    shape = artifact.manifest.architecture
    document = parse_json(content, where)
    try:
        _check_parts(document, family_of({"model_type": shape.family}, where).tokenizer)
        _check_ids(document, shape.vocab)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = str(error) if type(error) is ValueError else f"not as a tokenizer is laid out: {error!r}"
        raise InputError(f"unusable tokenizer ({what})", where, "export it again, and do not trust it") from None
    with mapped_panics(where):
        tokenizer = Tokenizer.from_str(content.decode("utf-8"))
    # Some checkpoints (MiniLM's among them) store a fixed padding and a truncation of their own.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    with mapped_panics(where):
        # Some of what can be wrong shows only in use.
        tokenizer.encode("a", "\N{SNOWMAN}")
    return tokenizer


def mask_id(artifact: Artifact, tokenizer: Tokenizer) -> int:
    """The id of the token that hides another. Raises InputError where the tokenizer has none."""
    mask = family_of({"model_type": artifact.manifest.architecture.family}, str(artifact.path)).mask_token
    found = tokenizer.token_to_id(mask)
    if found is None:
        raise InputError(f"no token {mask}", str(artifact.path / TOKENIZER), "save the checkpoint with its tokenizer")
    return int(found)


def pad_id(artifact: Artifact) -> int:
    """The token that fills rows up, from ``config.json``. Raises InputError for a config that asks to run code."""
    where = str(artifact.path / "config.json")
    config = parse_json(artifact.read("config.json"), where)
    if "auto_map" in config:
        raise InputError("the model asks to run its own code", where, "export it from a checkpoint without auto_map")
    value = config.get("pad_token_id")
    return value if type(value) is int and 0 <= value < artifact.manifest.architecture.vocab else 0


@contextmanager
def mapped_panics(where: str) -> Iterator[None]:
    """What the library raises on a bad tokenizer, as InputError: bare Exception, and panics, which are no Exception."""
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"unreadable tokenizer ({reason})", where, "export it again") from error


def _check_parts(document: Mapping[str, Any], allowed: TokenizerParts) -> None:
    model = document["model"]
    if (kind := model.get("type", allowed.model)) != allowed.model:
        raise ValueError(f"its model is {kind!r}, the family's is {allowed.model}")
    if not 0 < model.get("max_input_chars_per_word", 100) <= _MAX_WORD:
        raise ValueError(f"max_input_chars_per_word is not within {_MAX_WORD}")
    if (unknown := model.get("unk_token")) is not None and unknown not in model["vocab"]:
        raise ValueError(f"its unk_token {unknown!r:.30} is no piece")
    if model.get("dropout"):
        raise ValueError("dropout would make answers random")
    for name in _PARTS:
        for part in _flat(document.get(name), _MEMBERS[name]):
            if part["type"] not in getattr(allowed, name):
                known = ", ".join(getattr(allowed, name))
                raise ValueError(f"its {name} is {part['type']!r}, the family's are {known}")
            _CHECKS.get(part["type"], _accept)(part)


def _flat(part: Mapping[str, Any] | None, members: str) -> Iterator[Mapping[str, Any]]:
    if part is None:
        return
    yield part
    if part["type"] == "Sequence":
        for member in part[members]:
            yield from _flat(member, members)


def _accept(part: Mapping[str, Any]) -> None:
    """A part that holds nothing which could do harm."""


def _check_replace(part: Mapping[str, Any]) -> None:
    """A plain string for a plain string."""
    plain = part["pattern"].get("String")
    if not isinstance(plain, str) or not plain or len(part["pattern"]) != 1:
        raise ValueError(f"it replaces {part['pattern']!r:.60}, which is no plain string")
    _check_length(len(part["content"].encode()))


def _check_precompiled(part: Mapping[str, Any]) -> None:
    """SentencePiece's map of characters: the size of a trie, the trie, and texts that each end with a zero."""
    raw = base64.b64decode(part["precompiled_charsmap"], validate=True)
    start = 4 + int.from_bytes(raw[:4], "little")
    if start > len(raw):
        raise ValueError("its map of characters is cut")
    _check_length(max(map(len, raw[start:].split(b"\0"))))


def _check_length(length: int) -> None:
    # Once for each character of a text, it would fill memory.
    if length > _MAX_REPLACEMENT:
        raise ValueError(f"it replaces a character by {length} bytes, at most {_MAX_REPLACEMENT} are read")


_CHECKS: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
    "Replace": _check_replace,
    "Precompiled": _check_precompiled,
}


def _check_ids(document: Mapping[str, Any], vocab: int) -> None:
    """Every id is a row of the embedding table, and no two pieces share one."""
    ids = _piece_ids(document["model"])
    _check_range(ids, vocab)
    if len(set(ids)) != len(ids):
        raise ValueError("two pieces share an id")
    _check_range((holder[key] for holder, key in id_slots(document)), vocab)
    for part in _flat(document.get("post_processor"), _MEMBERS["post_processor"]):
        if part["type"] == "TemplateProcessing":
            _check_template(part)


def _piece_ids(model: Mapping[str, Any]) -> list[Any]:
    """The ids of the pieces; where they are listed with their scores, a piece's place is its id."""
    pieces = model["vocab"]
    if isinstance(pieces, dict):
        return list(pieces.values())
    for piece, score in pieces:
        if not isinstance(piece, str) or not math.isfinite(score):
            raise ValueError(f"a piece {piece!r:.30} with the score {score!r:.30}")
    _check_range([] if model.get("unk_id") is None else [model["unk_id"]], len(pieces))
    return list(range(len(pieces)))


def id_slots(document: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Where ``tokenizer.json`` holds ids beside its vocabulary, as containers and keys: of the special tokens."""
    for token in document.get("added_tokens") or []:
        yield token, "id"
    for part in _flat(document.get("post_processor"), _MEMBERS["post_processor"]):
        for special in part.get("special_tokens", {}).values():
            yield from ((special["ids"], place) for place in range(len(special["ids"])))
        yield from ((part[name], 1) for name in ("cls", "sep") if name in part)
    if document.get("padding"):
        yield document["padding"], "pad_id"


def _check_template(part: Mapping[str, Any]) -> None:
    specials = part["special_tokens"]
    for piece in (*part["single"], *part["pair"]):
        name = piece["SpecialToken"]["id"] if "SpecialToken" in piece else None
        if name is not None and name not in specials:
            raise ValueError(f"its template has a special token {name!r} without ids")


def _check_range(ids: Iterable[Any], vocab: int) -> None:
    for value in ids:
        if type(value) is not int or not 0 <= value < vocab:
            raise ValueError(f"id {value!r:.30}, where the vocabulary has {vocab} rows")
