"""The tokenizer of an artifact or checkpoint, looked through before the library that runs it sees it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tokenizers import Tokenizer

from edgebert.artifact import Artifact, parse_json
from edgebert.errors import InputError
from edgebert.families import TokenizerParts, family_of

TOKENIZER = "tokenizer.json"

_MAX_BYTES = 32_000_000
# The library takes time of the order of the square of it for each word.
_MAX_WORD = 1000
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


def _flat(part: Mapping[str, Any] | None, members: str) -> Iterator[Mapping[str, Any]]:
    if part is None:
        return
    yield part
    if part["type"] == "Sequence":
        for member in part[members]:
            yield from _flat(member, members)


def _check_ids(document: Mapping[str, Any], vocab: int) -> None:
    """Every id is a row of the embedding table, and no two pieces share one."""
    pieces = document["model"]["vocab"]
    ids = list(pieces.values())
    _check_range(ids, vocab)
    if len(set(ids)) != len(ids):
        raise ValueError("two pieces share an id")
    _check_range((holder[key] for holder, key in id_slots(document)), vocab)
    for part in _flat(document.get("post_processor"), _MEMBERS["post_processor"]):
        if part["type"] == "TemplateProcessing":
            _check_template(part)


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
