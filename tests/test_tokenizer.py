"""SentencePiece's tokenizers: read as they are, and what in such a file could do harm is refused.

What all families share is tested from outside, in `test_hostile.py` and `test_serving.py`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from edgebert.errors import InputError
from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.tokenizer import open_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("unigram") / "tiny", "xlm-roberta", layers=1)


def changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Open the folder's tokenizer with its JSON changed, and put the JSON back."""
    path = folder / "tokenizer.json"
    before = path.read_text("utf-8")
    document = json.loads(before)
    change(document)
    path.write_text(json.dumps(document), "utf-8")
    try:
        open_tokenizer(open_checkpoint(str(folder)))
    finally:
        path.write_text(before, "utf-8")


def test_the_map_of_characters_is_followed(folder: Path) -> None:
    tokenizer = open_tokenizer(open_checkpoint(str(folder)))
    assert tokenizer.encode("a Film Zz").tokens == ["<s>", "▁a", "▁film", "▁", "z", "z", "</s>"]
    assert tokenizer.encode("``a").tokens == ["<s>", "▁", "'", "a", "</s>"]


def normalizer(**part: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: document.update(normalizer=part)


def replaces(pattern: object, content: str = "") -> Callable[[dict[str, Any]], object]:
    return normalizer(type="Replace", pattern=pattern, content=content)


def maps(raw: bytes) -> Callable[[dict[str, Any]], object]:
    return normalizer(type="Precompiled", precompiled_charsmap=base64.b64encode(raw).decode())


def model(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["model"].update(fields)


HARMS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "regular expression": (replaces({"Regex": "(a+)+$"}), "no plain string"),
    "regular expression beside a string": (replaces({"String": "a", "Regex": "(a+)+$"}), "no plain string"),
    "nothing replaced": (replaces({"String": ""}, "a"), "no plain string"),
    "long replacement": (replaces({"String": "a"}, "b" * 201), "by 201 bytes"),
    "long replacement in the map": (maps(tiny.charsmap(b"Z", b"z" * 201)), "by 201 bytes"),
    "map that is cut": (maps(tiny.charsmap(b"Z", b"z")[:100]), "map of characters is cut"),
    "map that is no base64": (normalizer(type="Precompiled", precompiled_charsmap="?"), "laid out"),
    "splitting by a pattern": (
        lambda document: document.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "a"}}),
        "pre_tokenizer is 'Split'",
    ),
    "more pieces than rows": (model(vocab=[["a", 0.0]] * 10_000), "id 9999|id 146|where the vocabulary has"),
    "unknown beyond the pieces": (model(unk_id=10_000), "id 10000"),
    "score of infinity": (model(vocab=[["<unk>", 1e999]]), "is not JSON|with the score inf"),
    "score in words": (model(vocab=[["<unk>", "high"]]), "laid out"),
    "another model": (model(type="WordPiece"), "its model is 'WordPiece'"),
}


@pytest.mark.parametrize(("change", "match"), HARMS.values(), ids=HARMS)
def test_what_could_do_harm_is_refused(change: Callable[[dict[str, Any]], object], match: str, folder: Path) -> None:
    with pytest.raises(InputError, match=rf"unusable tokenizer \(.*({match})|{match}"):
        changed(folder, change)
