"""Text to token arrays, as the checkpoint's own fast tokenizer does it, and batches without waste."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from edgebert.artifact import Artifact, parse_json
from edgebert.errors import InputError, ItemError

Text = str | tuple[str, str]
Batch = dict[str, npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Tokens:
    """One tokenized item; ``truncated`` says that the text was longer than the model reads."""

    ids: list[int]
    types: list[int]
    truncated: bool

    def __len__(self) -> int:
        return len(self.ids)


class TextTokenizer:
    """The tokenizer of an artifact or checkpoint, with truncation at ``max_length`` tokens, specials included."""

    def __init__(self, artifact: Artifact, max_length: int | None = None) -> None:
        limit = artifact.manifest.max_length
        self.max_length = limit if max_length is None else max_length
        if not 2 < self.max_length <= limit:
            raise InputError(
                f"max_length {self.max_length} is out of reach", str(artifact.path), f"at most {limit} tokens"
            )
        try:
            self._tokenizer = Tokenizer.from_str(artifact.read("tokenizer.json").decode("utf-8"))
        except Exception as error:
            # tokenizers raises bare Exception.
            if isinstance(error, InputError):
                raise
            raise InputError(
                "unreadable tokenizer", str(artifact.path / "tokenizer.json"), "export it again"
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_length, strategy="longest_first")
        self._names = [spec.name for spec in artifact.manifest.inputs]
        self._pad = _pad_id(artifact)

    def encode(self, texts: Sequence[Text]) -> list[Tokens]:
        """Tokens of each item. Raises ItemError naming the first item that is not a text or a pair."""
        for index, item in enumerate(texts):
            _check_item(index, item)
        if len(texts) == 1:
            # The batch call wakes a thread pool, which for one text costs more than it gives.
            pair = texts[0] if isinstance(texts[0], tuple) else (texts[0],)
            return [_tokens(self._tokenizer.encode(*pair))]
        return [_tokens(encoding) for encoding in self._tokenizer.encode_batch(list(texts))]

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


def _tokens(encoding: Encoding) -> Tokens:
    return Tokens(encoding.ids, encoding.type_ids, bool(encoding.overflowing))


def _check_item(index: int, item: Any) -> None:
    parts = item if isinstance(item, tuple) and len(item) == 2 else (item,)
    if not all(isinstance(part, str) for part in parts):
        raise ItemError(index, f"not a text: {type(item).__name__}")
    try:
        for part in parts:
            part.encode("utf-8")
    except UnicodeEncodeError:
        raise ItemError(index, "a lone surrogate is not text") from None


def _pad_id(artifact: Artifact) -> int:
    value = parse_json(artifact.read("config.json"), str(artifact.path / "config.json")).get("pad_token_id")
    return value if isinstance(value, int) else 0


def batches(items: Sequence[Tokens], max_tokens: int) -> Iterator[list[int]]:
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
