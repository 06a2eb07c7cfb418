"""Token ids are those of transformers' fast tokenizer, for every character there is and for real text.

Random texts, and pairs of them, are in `test_serving.py`.
"""

# ruff: noqa: RUF001  (characters that look like others are what this is about)
from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import transformers
from tiny import FAMILIES, TASKS, Exports

from edgebert.artifact import Artifact
from edgebert.serving.tokens import Text, TextTokenizer
from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.training.data import read

# What tokenizers treat apart: joined emoji and their colours, flags, marks on marks, both directions, Jamo, final
# forms, letters that change length in lower case, blanks of every width, controls, and what looks like special tokens.
HARD = (
    "👩\u200d👩\u200d👧\u200d👦👍🏽🇩🇪",
    "e\u0301\u0323a\u0308\u0304 Ångström ÅNGSTRÖM",
    "שָׁלוֹם עולם",
    "مَرحَبًا بِالعَالَم",
    "\u202eabc\u202c",
    "\u1112\u1161\u11ab한글",
    "İstanbul ıIİi STRASSE straße ẞ",
    "ΣΊΣΥΦΟΣ σίσυφος",
    "ﬁ ﬃ ﷺ ㎒ ½ ① Ⅷ ｆｕｌｌ　ｗｉｄｔｈ",
    "漢字かなカナ混じり文。",
    "ไทยไม่มีช่องว่าง",
    "नमस्ते दुनिया",
    "a\u00a0b\u2003c\u200bd\ufeffe\u2028f\u2029g",
    "\x00\x01\x1b\x7f\x85\t\r\n",
    "\ufffd \ufffe \U0010ffff \ue000",
    "[CLS] [SEP] [MASK] <s> </s> <mask> <unk> [UNK] [cls]x[SEP]",
    "##film ▁film Ġfilm",
    "don't can't I'll we’ve ...!!!???---___",
    "http://a.b/c?d=e&f#g 1,234.56€ 50% 10⁻³",
    "x" * 101,
    "日" * 101,
)
CHARACTERS = 40


def every_character() -> list[str]:
    """All characters that Unicode has assigned, some in a word of their own and all in one."""
    found = [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
    parts = ["".join(found[i : i + CHARACTERS]) for i in range(0, len(found), CHARACTERS)]
    return [*parts, *map(" ".join, parts)]


def differing(ours: TextTokenizer, theirs: Any, texts: Sequence[Text]) -> list[Text]:
    """The texts, or pairs, that the two read as other tokens, at most a hundred."""
    firsts = [text if isinstance(text, str) else text[0] for text in texts]
    seconds = [text[1] for text in texts if isinstance(text, tuple)]
    expected = theirs(firsts, seconds or None, truncation="longest_first", max_length=ours.max_length)["input_ids"]
    found = ours.encode(texts)
    assert len(found) == len(expected) == len(texts)
    return [text for text, item, ids in zip(texts, found, expected, strict=True) if item.ids != ids][:100]


def theirs(source: Artifact) -> Any:
    return transformers.AutoTokenizer.from_pretrained(str(source.path))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_character_and_the_hard_ones(family: str, exports: Exports) -> None:
    source = exports.checkpoint(family, TASKS[0])
    ours = TextTokenizer(source)
    assert differing(ours, theirs(source), [*HARD, *every_character()]) == []
    assert differing(ours, theirs(source), list(zip(HARD, reversed(HARD), strict=True))) == []


def test_every_character_and_real_texts_in_real_pieces(minilm: str, shared: Path) -> None:
    source = open_checkpoint(minilm)
    ours, reference = TextTokenizer(source), theirs(source)
    assert differing(ours, reference, [*HARD, *every_character()]) == []
    for name in ("xquad_en/test.jsonl.gz", "sst2_sent", "banking77"):
        rows = read(shared / "data" / name).test
        texts: list[Text] = [row.text if row.text_b is None else (row.text, row.text_b) for row in rows]
        assert len(texts) > 100
        assert differing(ours, reference, texts) == []
