"""Text to token arrays, as the checkpoint's own fast tokenizer does it, and batches without waste."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding

from edgebert.artifact import Artifact
from edgebert.errors import InputError, ItemError, UsageError
from edgebert.spans import Place, stripped
from edgebert.tasks import TASKS
from edgebert.tokenizer import TOKENIZER, mapped_panics, mask_id, open_tokenizer, pad_id
from edgebert.windows import places_in, shares_of, windows_of

Text = str | tuple[str, str]
Batch = dict[str, npt.NDArray[np.int64]]
Overflow = Literal["truncate", "error", "chunk"]
T = TypeVar("T")

# What one call may ask: beyond it, memory would grow with the caller's mistake.
MAX_ITEMS = 100_000
MAX_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class Tokens:
    """One tokenized item; ``truncated`` says that the text was longer than the model reads.

    ``rest`` holds the windows after the first, where a long text is answered in chunks; ``share`` says from which
    to before which of its tokens a window speaks for the text (None: for all), since windows overlap. ``places`` are
    each token's start and end in the text, without blanks around it, and ``words`` the number of its word (None for
    special tokens); both only where answers point into the text. Of a question with its context they are about the
    context, ``text``, alone, and the ``words`` are its tokens.
    """

    ids: list[int]
    types: list[int]
    truncated: bool
    rest: tuple[Tokens, ...] = ()
    places: tuple[Place, ...] = ()
    words: tuple[int | None, ...] = ()
    text: str = ""
    share: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def windows(self) -> tuple[Tokens, ...]:
        """The item's windows in order, this one first."""
        return (self, *self.rest)

    @property
    def told(self) -> slice:
        """Which of its tokens this window speaks for."""
        return slice(*(self.share or (0, len(self))))


class TextTokenizer:
    """The tokenizer of an artifact or checkpoint, reading ``max_length`` tokens at once, specials included.

    ``overflow`` says what becomes of longer texts: cut (``truncate``), refused (``error``) or read in windows that
    overlap (``chunk``). None: contexts of questions are read in windows, other texts cut.
    """

    def __init__(self, artifact: Artifact, max_length: int | None = None, overflow: Overflow | None = None) -> None:
        task = TASKS[artifact.manifest.task]
        limit = artifact.manifest.max_length
        self.max_length = limit if max_length is None else max_length
        self.overflow = ("chunk" if task.asks else "truncate") if overflow is None else overflow
        if self.overflow not in get_args(Overflow):
            raise UsageError(f"unknown overflow {overflow!r}", "overflow", f"one of {', '.join(get_args(Overflow))}")
        self._where = str(artifact.path / TOKENIZER)
        self._tokenizer = open_tokenizer(artifact)
        # Of a pair, since it has the most; and at least a token of the text must fit beside them.
        least = max(2, self._tokenizer.num_special_tokens_to_add(True))
        if not least < self.max_length <= limit:
            remedy = f"more than {least}, at most {limit} tokens"
            raise InputError(f"max_length {self.max_length} is out of reach", str(artifact.path), remedy)
        self.specials = self._tokenizer.num_special_tokens_to_add(False)
        self._points, self._asks = task.points, task.asks
        if not self._asks and self.overflow != "chunk":
            self._tokenizer.enable_truncation(self.max_length, strategy="longest_first")
        self._names = [spec.name for spec in artifact.manifest.inputs]
        self._pad = pad_id(artifact)
        self._artifact = artifact

    def encode(self, texts: Sequence[Text]) -> list[Tokens]:
        """Tokens of each item. Raises ItemError naming the first item that is no text or too long for the policy."""
        if len(texts) > MAX_ITEMS:
            raise UsageError(f"{len(texts)} items in one call", "texts", f"pass parts of at most {MAX_ITEMS}")
        texts = list(texts)
        for index, item in enumerate(texts):
            _check_item(index, item)
        with mapped_panics(self._where):
            found = [tokens for part in _parts(texts) for tokens in self._encode(part)]
        if self.overflow != "truncate":
            self._check_overflow(found)
        return found

    @cached_property
    def mask_id(self) -> int:
        """The id of the token that stands for a missing one. Raises InputError where the tokenizer has none."""
        return mask_id(self._artifact, self._tokenizer)

    def text_of(self, token: int) -> str:
        """A token as a part of text."""
        return str(self._tokenizer.decode([token])).strip()

    def _encode(self, texts: Sequence[Text]) -> list[Tokens]:
        if len(texts) == 1:
            # The batch call wakes a thread pool, which for one text costs more than it gives.
            pair = texts[0] if isinstance(texts[0], tuple) else (texts[0],)
            return [self._tokens(self._tokenizer.encode(*pair), texts[0])]
        found = self._tokenizer.encode_batch(texts)
        return [self._tokens(encoding, text) for encoding, text in zip(found, texts, strict=True)]

    def _tokens(self, encoding: Encoding, text: Text) -> Tokens:
        if self._asks:
            return self._context(encoding, text)
        tokens = self._pointed(Tokens(encoding.ids, encoding.type_ids, bool(encoding.overflowing)), encoding, text)
        if len(tokens) <= self.max_length:
            return tokens
        # Whole, since texts to be read in chunks are not cut. A pair cannot be.
        return (
            replace(tokens, truncated=True) if isinstance(text, tuple) else _chunked(tokens, encoding, self.max_length)
        )

    def _pointed(self, tokens: Tokens, encoding: Encoding, text: Text) -> Tokens:
        """With what points into the text, for tasks whose answers do."""
        if not self._points or isinstance(text, tuple):
            return tokens
        places = tuple(stripped(text, place) for place in encoding.offsets)
        return replace(tokens, places=places, words=tuple(encoding.word_ids))

    def _context(self, encoding: Encoding, text: Text) -> Tokens:
        """A question with its context, or a context alone: the first window, and the others as its ``rest``."""
        pair = isinstance(text, tuple)
        context = text[1] if isinstance(text, tuple) else text
        windows, cut = windows_of(encoding.sequence_ids, self.max_length, pair=pair)
        whole, offsets = Tokens(encoding.ids, encoding.type_ids, cut, text=context), encoding.offsets
        first, *rest = (
            replace(_part(whole, window.tokens), places=places_in(context, window, offsets), words=window.numbers)
            for window in windows
        )
        if self.overflow != "chunk":
            return replace(first, truncated=cut or bool(rest))
        return replace(first, rest=tuple(rest))

    def _check_overflow(self, found: Sequence[Tokens]) -> None:
        for index, tokens in enumerate(found):
            if self.overflow == "error" and tokens.truncated:
                remedy = "shorten it, or load with overflow='truncate' or 'chunk'"
                raise ItemError(index, f"longer than {self.max_length} tokens", remedy)
            if tokens.truncated and self.overflow == "chunk" and not self._asks:
                what = f"a pair longer than {self.max_length} tokens cannot be read in chunks"
                raise ItemError(index, what, "shorten it, or load with overflow='truncate'")

    def collate(self, items: Sequence[Tokens], length: int | None = None) -> Batch:
        """Right-padded int64 arrays [batch, length]; ``length`` defaults to the longest item's."""
        width = length or max(map(len, items))
        ids = np.full((len(items), width), self._pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        types = np.zeros_like(ids)
        for row, item in enumerate(items):
            ids[row, : len(item)] = item.ids
            mask[row, : len(item)] = 1
            types[row, : len(item)] = item.types
        arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return {name: arrays[name] for name in self._names}


def _chunked(whole: Tokens, encoding: Encoding, most: int) -> Tokens:
    """A text that is too long as its first window, with the others as its ``rest``."""
    windows, _ = windows_of(encoding.sequence_ids, most, pair=False)
    first, *rest = (
        replace(_part(whole, window.tokens), share=share)
        for window, share in zip(windows, shares_of(windows), strict=True)
    )
    return replace(first, rest=tuple(rest))


def _part(whole: Tokens, places: Sequence[int]) -> Tokens:
    """Some tokens of a text, with what is known of each."""

    def some(column: Sequence[T]) -> list[T]:
        return [column[place] for place in places] if column else []

    spans, words = tuple(some(whole.places)), tuple(some(whole.words))
    return replace(whole, ids=some(whole.ids), types=some(whole.types), places=spans, words=words)


def _parts(texts: Sequence[Text]) -> Iterator[Sequence[Text]]:
    """Slices of about ``MAX_CHARACTERS``: what the library holds of a text is far larger than the text."""
    start = characters = 0
    for index, item in enumerate(texts):
        length = len(item) if isinstance(item, str) else sum(map(len, item))
        if index > start and characters + length > MAX_CHARACTERS:
            yield texts[start:index]
            start, characters = index, 0
        characters += length
    if len(texts) > start:
        yield texts[start:]


def _check_item(index: int, item: Any) -> None:
    parts = item if isinstance(item, tuple) and len(item) == 2 else (item,)
    if not all(isinstance(part, str) for part in parts):
        raise ItemError(index, f"not a text: {type(item).__name__}")
    if max(map(len, parts)) > MAX_CHARACTERS:
        what = f"a text of {max(map(len, parts))} characters"
        raise ItemError(index, what, f"pass parts of at most {MAX_CHARACTERS}")
    try:
        for part in parts:
            part.encode("utf-8")
    except UnicodeEncodeError:
        raise ItemError(index, "a lone surrogate is not text") from None


def batches(items: Sequence[Tokens], max_tokens: int) -> Iterator[Sequence[int]]:
    """Indices of ``items`` in batches of similar length, at most ``max_tokens`` each, padding included."""
    order = sorted(range(len(items)), key=lambda i: len(items[i]))
    batch: list[int] = []
    for index in order:
        # Sorted ascending: the newcomer is the longest of its batch.
        if batch and (len(batch) + 1) * len(items[index]) > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
