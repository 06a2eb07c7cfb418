"""From rows to tensors: tokenized once, batched by length, padded to the longest of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Encoding
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler

from edgebert.artifact import Artifact
from edgebert.spans import Place
from edgebert.tasks import TASKS
from edgebert.tokenizer import open_tokenizer
from edgebert.training.objectives.losses import UNLABELLED
from edgebert.training.rows import Row
from edgebert.windows import places_in, windows_of

_MEGABATCH = 50


@dataclass(frozen=True)
class Encoded:
    """A tokenized row or a window of one: token ids, token types and places in the text, specials included, no padding.

    ``row`` is the number of the row. Of a question with its context, ``places`` are those in the context, and
    ``numbers`` count its tokens across windows (None for others).
    """

    ids: tuple[int, ...]
    types: tuple[int, ...]
    places: tuple[Place, ...] = ()
    row: int = 0
    numbers: tuple[int | None, ...] = ()


def tokenize(source: Artifact, rows: Sequence[Row], max_length: int) -> list[Encoded]:
    """Tokenize rows as the checkpoint does, cut to ``max_length`` tokens; of questions, all windows in order."""
    tokenizer = open_tokenizer(source)
    texts = [row.text if row.text_b is None else (row.text, row.text_b) for row in rows]
    if TASKS[source.manifest.task].asks:
        encodings = tokenizer.encode_batch(texts)
        return [one for i, found in enumerate(encodings) for one in _windows(found, rows[i], i, max_length)]
    tokenizer.enable_truncation(max_length)
    return [
        Encoded(tuple(found.ids), tuple(found.type_ids), tuple(found.offsets), row)
        for row, found in enumerate(tokenizer.encode_batch(texts))
    ]


def _windows(found: Encoding, row: Row, index: int, max_length: int) -> Iterator[Encoded]:
    """The windows in which a question and its context are read (see :mod:`edgebert.windows`)."""
    context = row.text if row.text_b is None else row.text_b
    windows, _ = windows_of(found.sequence_ids, max_length, pair=row.text_b is not None)
    ids, types, offsets = found.ids, found.type_ids, found.offsets
    for window in windows:
        tokens, places = window.tokens, places_in(context, window, offsets)
        yield Encoded(tuple(ids[i] for i in tokens), tuple(types[i] for i in tokens), places, index, window.numbers)


class Indices(Dataset[int]):
    """The dataset that the Trainer sees: row numbers; :class:`Collator` knows the rows."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> int:
        return index


@dataclass(frozen=True)
class Collator:
    """Row numbers to a batch: ids, mask and types [batch, longest], the row numbers, labels.

    Labels are one tensor with a line for every row, or one [tokens] for each, then padded to [batch, longest].
    """

    rows: Sequence[Encoded]
    labels: Tensor | Sequence[Tensor] | None
    pad_id: int
    token_types: bool

    def __call__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Make one batch."""
        chosen = [self.rows[index] for index in indices]
        length = max(len(row.ids) for row in chosen)
        ids = torch.full((len(chosen), length), self.pad_id)
        mask = torch.zeros_like(ids)
        types = torch.zeros_like(ids)
        for place, row in enumerate(chosen):
            ids[place, : len(row.ids)] = torch.tensor(row.ids)
            types[place, : len(row.ids)] = torch.tensor(row.types)
            mask[place, : len(row.ids)] = 1
        batch = {"input_ids": ids, "attention_mask": mask, "rows": torch.tensor(indices)}
        if self.token_types:
            batch["token_type_ids"] = types
        if isinstance(self.labels, Tensor):
            batch["labels"] = self.labels[batch["rows"]]
        elif self.labels is not None:
            batch["labels"] = pad_sequence(
                [self.labels[i] for i in indices], batch_first=True, padding_value=UNLABELLED
            )
        return batch


def pad_id_of(module: torch.nn.Module) -> int:
    """The id a model's batches are padded with. Matters beyond the mask: roberta counts positions by it."""
    return int(getattr(module.config, "pad_token_id", None) or 0)


class LengthGrouped(Sampler[int]):
    """Shuffled row numbers in which every ``batch_size`` consecutive ones are of similar length.

    A pure function of seed and epoch, so that a resumed run sees the same batches. The transformers
    sampler of that purpose depends on the state of the global generator and goes from long to short;
    here the batches are shuffled as well.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration is for."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        return (index for batch in self.batches(self._epoch) for index in batch)

    def batches(self, epoch: int) -> list[list[int]]:
        """The batches of one epoch, in order; only the last may be smaller."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        size, count = self._batch_size, len(self._lengths)
        order = torch.randperm(count, generator=generator).tolist()
        # At least four groups to sort within, so that a small set is not always cut into the same batches.
        span = size * max(1, min(_MEGABATCH, count // (4 * size)))
        grouped: list[int] = []
        for start in range(0, count, span):
            grouped += sorted(order[start : start + span], key=lambda index: self._lengths[index])
        batches = [grouped[start : start + size] for start in range(0, count, size)]
        whole = [batch for batch in batches if len(batch) == size]
        shuffled = [whole[place] for place in torch.randperm(len(whole), generator=generator).tolist()]
        return shuffled + [batch for batch in batches if len(batch) < size]
