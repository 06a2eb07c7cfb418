"""The table of words while a model is trained: only the rows that the data use.

Half of a shallow MiniLM's parameters are its table of words, most of whose rows no text of the data reads. Their
gradients are zero, but a dense table has them filled, summed, clipped and stepped with all others in every step. Here
they are left out; what is learned is the same, but for weight decay, which reaches the unread rows no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class UsedRows(torch.nn.Module):
    """In place of a table [vocabulary, width]: trains the rows ``used``, is saved and loaded as the whole table."""

    whole: Tensor
    used: Tensor
    places: Tensor

    def __init__(self, table: torch.nn.Embedding, used: Sequence[int]) -> None:
        super().__init__()
        numbers = torch.tensor(used)
        places = torch.zeros(len(table.weight), dtype=torch.int64)
        places[numbers] = torch.arange(len(used))
        self.register_buffer("whole", table.weight.detach(), persistent=False)
        self.register_buffer("used", numbers, persistent=False)
        self.register_buffer("places", places, persistent=False)
        self.rows = torch.nn.Parameter(table.weight.detach()[numbers])
        # The row of padding gets no gradient, as in the table.
        self._padding = None if table.padding_idx is None else int(places[table.padding_idx])

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors [*, width] of tokens [*], each of which is one of the used."""
        return functional.embedding(self.places[ids], self.rows, self._padding)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        whole = self.whole.clone()
        whole[self.used] = self.rows.detach()
        destination[f"{prefix}weight"] = whole

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
        with torch.no_grad():
            self.whole.copy_(state_dict[f"{prefix}weight"])
            self.rows.copy_(self.whole[self.used])


def train_used_rows(module: Any, texts: Iterable[Sequence[int]], padding: int) -> None:
    """Let a transformers model train only the rows of its table of words that token ids, or the ``padding``, ask for.

    Not for a model whose answers are words: they are made from that table.
    """
    table = module.get_input_embeddings()
    used = {padding, *(token for ids in texts for token in ids)}
    if table.padding_idx is not None:
        used.add(table.padding_idx)
    module.set_input_embeddings(UsedRows(table, sorted(used)))
