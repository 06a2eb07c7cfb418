"""Texts longer than the model reads, and calls larger than memory: told, refused or read in chunks."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import FAMILIES, MAX_LENGTH, PEAK, TASKS, Exports

from edgebert.errors import InputError, ItemError, UsageError
from edgebert.serving.model import Model, averaged, load
from edgebert.serving.tokens import MAX_CHARACTERS, MAX_ITEMS, Overflow, TextTokenizer, Tokens
from edgebert.windows import Window, shares_of, windows_of

# Two special tokens leave room for this many words.
WINDOW = MAX_LENGTH - 2
LONG = " ".join(["film", "good", "river", "old"] * 40)
PAIR = ("film " * 50, "good " * 50)


def classifier(exports: Exports, overflow: Overflow = "truncate") -> Model:
    return load(exports.artifact("bert", TASKS[0]).path, threads=1, overflow=overflow)


def encoder(exports: Exports, overflow: Overflow = "truncate") -> Model:
    return load(exports.artifact("bert", TASKS[1]).path, threads=1, overflow=overflow)


def test_a_cut_text_is_told(exports: Exports) -> None:
    with classifier(exports) as model:
        short, long, pair = model.predict(["film", LONG, PAIR])
        assert [p.truncated for p in (short, long, pair)] == [False, True, True]
        assert {p.chunks for p in (short, long, pair)} == {1}


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "edgebert"]


def test_vectors_of_cut_texts_are_told_once_in_the_log(exports: Exports, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("edgebert").propagate = True
    with encoder(exports) as model, caplog.at_level(logging.WARNING, "edgebert"):
        model.encode(["film"])
        assert said(caplog) == []
        model.encode(["film", LONG])
        model.encode([LONG])
        assert said(caplog) == [f"1 of 2 texts were cut to {MAX_LENGTH} tokens (said once)"]
        assert [tokens.truncated for tokens in model.tokenize(["film", LONG])] == [False, True]


@pytest.mark.parametrize("text", [LONG, PAIR], ids=["text", "pair"])
def test_a_long_text_is_an_error_where_that_is_asked_for(exports: Exports, text: str | tuple[str, str]) -> None:
    with classifier(exports, "error") as model:
        with pytest.raises(ItemError, match=f"longer than {MAX_LENGTH} tokens.*item 1.*overflow=") as caught:
            model.predict(["film", text])
        assert (caught.value.index, caught.value.exit_code) == (1, 3)
        assert len(model.predict(["film"])) == 1


# As many tokens stand in two windows: half of one, where that is less than windows.OVERLAP.
STEP = WINDOW - WINDOW // 2


def parts_of(words: Sequence[str]) -> list[tuple[int, int]]:
    """From which to before which word each window reads, by hand."""
    starts = range(0, len(words) - WINDOW + STEP, STEP)
    return [(start, min(start + WINDOW, len(words))) for start in starts]


def test_chunks_overlap_and_are_averaged_by_tokens(exports: Exports) -> None:
    words = LONG.split()
    parts = parts_of(words)
    texts = [" ".join(words[start:end]) for start, end in parts]
    middles = [(start + end + 1) // 2 for (start, _), (_, end) in zip(parts[1:], parts, strict=False)]
    weights = np.diff(np.array([0, *middles, len(words)])).astype(np.float32)
    with classifier(exports, "chunk") as model:
        expected = (model.logits(texts) * weights[:, None]).sum(0) / weights.sum()
        np.testing.assert_allclose(model.logits(["film", LONG, "good"])[1], expected, atol=1e-5)
        first, long = model.predict(["film", LONG])
        assert (first.chunks, long.chunks, long.truncated) == (1, len(parts), False)
        np.testing.assert_allclose(model.logits(["film", LONG])[0], model.logits(["film"])[0], atol=1e-5)
    with encoder(exports, "chunk") as model:
        vector = model.encode([LONG])[0]
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        assert vector @ model.encode(texts[:1])[0] < 1 - 1e-4
        assert len(model.tokenize([LONG])[0].windows) == len(parts)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_fits_is_read_as_it_is_cut(family: str, exports: Exports) -> None:
    source = exports.checkpoint(family, TASKS[0])
    whole, cut = TextTokenizer(source, overflow="chunk"), TextTokenizer(source)
    room = MAX_LENGTH - whole.specials
    for text in ("", "film", " film" * room):
        assert whole.encode([text]) == cut.encode([text])
    longer = " film" * (room + 1)
    assert whole.encode([longer])[0].ids == cut.encode([longer])[0].ids
    assert len(whole.encode([longer])[0].windows) == 2


@given(words=st.integers(1, 400), room=st.integers(1, 200))
def test_every_token_is_spoken_for_once_where_most_stands_around_it(words: int, room: int) -> None:
    windows, _ = windows_of([None, *[0] * words, None], room + 2, pair=False)
    shares = shares_of(windows) if len(windows) > 1 else [(1, words + 1)]
    told = [n for window, (start, end) in zip(windows, shares, strict=True) for n in window.numbers[start:end]]
    assert told == list(range(words))
    assert all(start < end for start, end in shares)
    for window, (start, end) in zip(windows, shares, strict=True):
        for other in windows:
            for place in range(start, end):
                number = window.numbers[place]
                if number in other.numbers:
                    assert around(window, number, words) >= around(other, number, words)


def around(window: Window, number: int | None, words: int) -> int:
    """How many tokens of the text a window shows on the side of a token where it shows fewer.

    Where the text itself ends, nothing is missing.
    """
    held = [n for n in window.numbers if n is not None]
    assert number is not None
    before = words if held[0] == 0 else number - held[0]
    after = words if held[-1] == words - 1 else held[-1] - number
    return min(before, after)


def test_a_long_text_is_tagged_and_filled_once_everywhere(exports: Exports) -> None:
    text = " ".join(["film", "[MASK]", "river", "old"] * 40)
    places = [start for start in range(len(text)) if text.startswith("[MASK]", start)]
    with load(exports.artifact("bert", "fill-mask").path, threads=1, overflow="chunk") as model:
        (blanks,) = model.fill([text], top_k=1)
        assert [blank.start for blank in blanks] == places
        assert (blanks.chunks, blanks.truncated) == (len(parts_of(text.split())), False)
    words = LONG.split()
    with load(exports.artifact("bert", "token-classification").path, threads=1, overflow="chunk") as model:
        (labels,) = model.tag_words([words])
        windows = [model.tag_words([words[start:end]])[0] for start, end in parts_of(words)]
        (found,) = model.tag([LONG])
        assert (found.chunks, found.truncated) == (len(windows), False)
    middles = [
        (start + end + 1) // 2 for (start, _), (_, end) in zip(parts_of(words)[1:], parts_of(words), strict=False)
    ]
    expected = []
    for (start, _), own, first, last in zip(
        parts_of(words), windows, [0, *middles], [*middles, len(words)], strict=True
    ):
        expected += own[first - start : last - start]
    assert labels == expected
    with load(exports.artifact("bert", "token-classification").path, threads=1) as model:
        (found,) = model.tag([LONG])
        assert (found.chunks, found.truncated) == (1, True)


def test_a_long_pair_cannot_be_read_in_chunks(exports: Exports) -> None:
    with classifier(exports, "chunk") as model:
        assert len(model.predict([("film", "good")])) == 1
        for pair in (PAIR, ("", "film " * 90), ("film " * 90, "")):
            with pytest.raises(ItemError, match=r"a pair longer than 64 tokens.*item 1"):
                model.predict(["film", pair])


def test_averages_by_hand() -> None:
    def item(*shares: tuple[int, int]) -> Tokens:
        first, *rest = (Tokens([0] * 9, [], False, share=share) for share in shares)
        return replace(first, rest=tuple(rest))

    rows = np.array([[1.0], [2.0], [4.0], [9.0]], dtype=np.float32)
    items = [Tokens([0] * 3, [], False), item((1, 4), (3, 4)), Tokens([0] * 2, [], False)]
    assert averaged(rows, items).tolist() == [[1.0], [2.5], [9.0]]


def test_an_unknown_policy_is_refused(exports: Exports) -> None:
    with pytest.raises(UsageError, match=r"unknown overflow 'wrap'.*truncate, error, chunk"):
        classifier(exports, "wrap")  # type: ignore[arg-type]


def test_a_length_without_room_for_text_is_refused(exports: Exports) -> None:
    for limit in (3, MAX_LENGTH + 1):
        with pytest.raises(InputError, match="more than 3, at most 64 tokens"):
            load(exports.artifact("bert", TASKS[0]).path, max_length=limit)


HUGE = (
    PEAK
    + """
import json, sys, time
import edgebert
model = edgebert.load(sys.argv[1], threads=1)
model.predict(["a film"])
found = []
for texts in (["film", "a" * 50_000_000], ["film"] * 1_000_000, ["film", "a b " * 250_000], iter(["film"])):
    start = time.process_time()
    try:
        model.predict(texts)
        error = None
    except edgebert.EdgebertError as caught:
        error = str(caught)
    peak = peak_bytes()
    found.append([error, time.process_time() - start, peak])
assert len(model.predict(["film"])) == 1
print(json.dumps(found))
"""
)


def test_calls_larger_than_life_are_bounded(exports: Exports) -> None:
    path = exports.artifact("bert", TASKS[0]).path
    done = subprocess.run([sys.executable, "-c", HUGE, str(path)], stdout=subprocess.PIPE, check=True, timeout=120)
    text, items, longest, generator = json.loads(done.stdout)
    assert text[0] == f"a text of 50000000 characters: item 1: pass parts of at most {MAX_CHARACTERS}"
    assert items[0] == f"1000000 items in one call: texts: pass parts of at most {MAX_ITEMS}"
    assert longest[0] is None
    assert "pass list(texts)" in generator[0]
    for _, seconds, peak in (text, items, longest, generator):
        assert seconds < 5
        assert peak < 1_000_000_000


def test_many_small_parts_come_back_in_order(exports: Exports) -> None:
    # Long enough together to be tokenized in several parts.
    texts = ["film " * 40_000, "good", "river " * 160_000, "old " * 40_000, "dull"]
    with classifier(exports) as model:
        together = model.logits(texts)
        alone = np.concatenate([model.logits([text]) for text in texts])
        np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_cache_folder_must_be_private(exports: Exports, tmp_path: Path) -> None:
    path = exports.artifact("bert", TASKS[0]).path
    with load(path, cache_dir=tmp_path / "cache") as model:
        assert len(model.predict(["film"])) == 1
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
